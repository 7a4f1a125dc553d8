"""Models whose structure makes pruning them wrong, told before anything is computed; they are left as they were."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from trimformer.errors import TrimformerError
from trimformer.models.discovery import find_layers, find_sublayers
from trimformer.models.sublayer import Sublayer


def check_model(model: Any) -> None:
    """Checks that a model can be watched, cut and saved: what stands around it, and what its layers are made of.

    Raises:
        TrimformerError: it cannot, and why.
    """
    _check_wrapped(model)
    for name, module in model.named_modules():
        _check_module(name or type(model).__name__, module)
    config = model.config
    if getattr(config, "return_dict", True) is False:
        raise TrimformerError("the model's config sets return_dict=False; set it to True before pruning")
    for switch in ("output_attentions", "output_hidden_states"):
        if getattr(config, switch, False):
            raise TrimformerError(f"the model's config sets {switch}; set it to False before pruning")
    if torch.is_inference_mode_enabled():
        raise TrimformerError("prune outside of torch.inference_mode(), as calibration needs gradients")
    names: dict[nn.Module, str] = {}
    layers = set(find_layers(model))
    for name, module in model.named_modules(remove_duplicate=False):
        before = names.setdefault(module, name)
        if before != name and module in layers and before.rpartition(".")[0] == name.rpartition(".")[0]:
            raise TrimformerError(f"{before} and {name} are one layer; give each place in the model a layer of its own")
    for layer in layers:
        for module in layer.modules():
            _check_plain(names[module], module)
    _check_weights(model)


def _check_weights(model: nn.Module) -> None:
    """Raises:
    TrimformerError: layers share weights, or they are of no floating point type.
    """
    owners: dict[int, str] = {}
    for sublayer in find_sublayers(model):
        for linear in _linears(sublayer):
            weight = linear.weight
            owner = owners.setdefault(id(weight), sublayer.name)
            if owner != sublayer.name and not sublayer.calls_per_pass > 1:
                raise TrimformerError(
                    f"{sublayer.name} and {owner} share a weight, so one cannot be cut without the other; give each "
                    "layer weights of its own"
                )
            if not weight.is_floating_point():
                raise TrimformerError(f"the weights of {sublayer.name} are {weight.dtype}; give a model in float32")
            if weight.is_inference():
                raise TrimformerError("the model was made under torch.inference_mode(), where nothing can change it")


def _linears(sublayer: Sublayer) -> Iterator[Any]:
    yield from (producer.linear for producer in sublayer.producers)
    yield sublayer.projection


def _hook_name(hook: Callable[..., Any]) -> str:
    return str(getattr(hook, "__qualname__", ""))


def _check_wrapped(model: Any) -> None:
    names = {kind.__name__ for kind in type(model).__mro__}
    if {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule"} & names:
        raise TrimformerError(f"model is wrapped in {type(model).__name__}; give the model inside of it")
    if {"ScriptModule", "GraphModule"} & names:
        raise TrimformerError(f"model is a traced {type(model).__name__}; give the model that it was traced from")
    if any(name.startswith("PeftModel") for name in names):
        raise TrimformerError("model is wrapped by PEFT; give what its merge_and_unload() returns")
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TrimformerError(
            f"model is a {type(model).__name__}; give a PreTrainedModel, as trimformer.load returns it"
        )


def _check_module(name: str, module: nn.Module) -> None:
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if "BaseTunerLayer" in kinds or any("lora" in kind.lower() for kind in kinds):
        raise TrimformerError(f"{name} carries an adapter ({type(module).__name__}); merge it into the model first")
    if kinds & {"Linear4bit", "Linear8bitLt", "QuantLinear"} or "quantized" in type(module).__module__.split("."):
        raise TrimformerError(f"{name} is quantized ({type(module).__name__}); give the model it was made from")
    for key, tensor in module.named_parameters(recurse=False):
        if tensor.is_meta:
            raise TrimformerError(f"{name}.{key} is on the meta device and holds no values; load the model first")
        if tensor.is_quantized or type(tensor.data).__module__.startswith("torchao"):
            raise TrimformerError(f"{name}.{key} is quantized; give the model it was made from")


def _check_plain(name: str, module: nn.Module) -> None:
    """A module of a layer, whose weights must be its own and no function of others."""
    if parametrize.is_parametrized(module):
        raise TrimformerError(
            f"{name} is parametrized; make it plain with torch.nn.utils.parametrize.remove_parametrizations"
        )
    for hook in module._forward_pre_hooks.values():
        kinds = {kind.__name__ for kind in type(hook).__mro__}
        if "BasePruningMethod" in kinds:
            raise TrimformerError(f"{name} is pruned by torch.nn.utils.prune; make it plain with its remove()")
        if kinds & {"WeightNorm", "SpectralNorm"}:
            raise TrimformerError(
                f"{name} has a norm of its weights; make it plain with remove_weight_norm or the like"
            )
        if _hook_name(hook).startswith("register_mask"):
            raise TrimformerError(f"{name} is masked already; remove the masks, or shrink by them first")
