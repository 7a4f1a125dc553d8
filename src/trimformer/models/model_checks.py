"""Rejects models that cannot be pruned correctly, before any computation; never changes a model."""

from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.models.discovery import find_layers, find_sublayers
from trimformer.models.sublayer import Sublayer


def check_model(model: Any) -> None:
    """Checks that a model can be observed, pruned and saved: its wrapper, its config and its modules.

    Raises:
        TrimformerError: the model is wrapped, quantized, parametrized, masked or otherwise not a plain model.
    """
    _check_wrapped(model)
    check_own_forward(model)
    for name, module in model.named_modules():
        _check_module(name or type(model).__name__, module)
    config = model.config
    if getattr(config, "return_dict", True) is False:
        raise TrimformerError("the model's config sets return_dict=False; set it to True before pruning")
    for switch in ("output_attentions", "output_hidden_states"):
        if getattr(config, switch, False):
            raise TrimformerError(f"the model's config sets {switch}; set it to False before pruning")
    if getattr(config, "mask_ratio", 0):
        raise TrimformerError(
            f"the model leaves out {100 * config.mask_ratio:g} % of the patches at random, so no two passes agree; set "
            "mask_ratio to 0 in its config"
        )
    outputs = getattr(getattr(model, "qa_outputs", None), "out_features", 2)
    if outputs != 2:
        raise TrimformerError(
            f"the model answers questions with {outputs} outputs instead of 2, start and end; set num_labels to 2 in "
            "its config and train it"
        )
    if torch.is_inference_mode_enabled():
        raise TrimformerError("calibration needs gradients, but torch.inference_mode() is on; call prune outside of it")
    names: dict[nn.Module, str] = {}
    layers = set(find_layers(model))
    for name, module in model.named_modules(remove_duplicate=False):
        first_name = names.setdefault(module, name)
        if first_name != name and module in layers and first_name.rpartition(".")[0] == name.rpartition(".")[0]:
            raise TrimformerError(f"{first_name} and {name} are the same layer; give each its own copy")
    for layer in layers:
        for module in layer.modules():
            _check_plain(names[module], module)
    _check_weights(model)


def check_own_forward(model: nn.Module) -> None:
    """Checks that a copy of every module runs its own forward.

    A forward that was replaced by a method of the module, or a `partial` on it, as accelerate does, becomes one of the
    copy; another function, such as that of `torch.compile(model.forward)`, would still run the dense model.

    Raises:
        TrimformerError: a module's forward was replaced by a function that is not bound to the module.
    """
    for name, module in model.named_modules():
        if "forward" in vars(module) and not _is_bound(vars(module)["forward"], module):
            raise TrimformerError(
                f"the forward of {name or type(model).__name__} was replaced (by torch.compile or other code), "
                "and a copy of the model would still run it; save the model and load it again, or delete the "
                "replacement (`del module.forward`)"
            )


def _is_bound(forward: Any, module: nn.Module) -> bool:
    """Whether a function is a method of the module, or a `partial` with the module as its first argument."""
    if isinstance(forward, partial):
        return bool(forward.args) and forward.args[0] is module
    return isinstance(forward, MethodType) and forward.__self__ is module


def check_query_heads(model: PreTrainedModel) -> None:
    """Checks that query heads can be removed within key-value heads.

    Raises:
        TrimformerError: no attention sublayer has several query heads for each key-value head.
    """
    if not any(sublayer.queries_attribute for sublayer in find_sublayers(model)):
        raise TrimformerError(
            f"{type(model).__name__} has no grouped-query attention whose query heads can be removed one by one; leave "
            "out query_heads"
        )


def _check_weights(model: nn.Module) -> None:
    """Checks that layers own their weights and that these are floating point.

    Raises:
        TrimformerError: layers share weights, or weights are not floating point or not writable.
    """
    owners: dict[int, str] = {}
    for sublayer in find_sublayers(model):
        for linear in _linears(sublayer):
            weight = linear.weight
            owner = owners.setdefault(id(weight), sublayer.name)
            if owner != sublayer.name and not sublayer.calls_per_pass > 1:
                raise TrimformerError(
                    f"{sublayer.name} and {owner} share a weight, so neither can be pruned alone; give each layer its "
                    "own weights"
                )
            if not weight.is_floating_point():
                raise TrimformerError(f"the weights of {sublayer.name} are {weight.dtype}; load the model in float32")
            if weight.is_inference():
                raise TrimformerError(
                    "the model was created under torch.inference_mode(), so it is read-only; load it outside of it"
                )


def _linears(sublayer: Sublayer) -> Iterator[Any]:
    yield from (producer.linear for producer in sublayer.producers)
    yield sublayer.projection


def _hook_name(hook: Callable[..., Any]) -> str:
    return str(getattr(hook, "__qualname__", ""))


def _check_wrapped(model: Any) -> None:
    names = {kind.__name__ for kind in type(model).__mro__}
    if {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule"} & names:
        raise TrimformerError(f"model is wrapped in {type(model).__name__}; pass the model inside it")
    if {"ScriptModule", "GraphModule"} & names:
        raise TrimformerError(f"model is a traced {type(model).__name__}; pass the original model")
    if any(name.startswith("PeftModel") for name in names):
        raise TrimformerError("model is wrapped by PEFT; pass the result of its merge_and_unload()")
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TrimformerError(
            f"model is a {type(model).__name__}; pass a PreTrainedModel, such as trimformer.load returns"
        )


def _check_module(name: str, module: nn.Module) -> None:
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if "BaseTunerLayer" in kinds or any("lora" in kind.lower() for kind in kinds):
        raise TrimformerError(f"{name} has an adapter ({type(module).__name__}); merge it into the model first")
    if kinds & {"Linear4bit", "Linear8bitLt", "QuantLinear"} or "quantized" in type(module).__module__.split("."):
        raise TrimformerError(f"{name} is quantized ({type(module).__name__}); pass the model before quantization")
    for key, tensor in module.named_parameters(recurse=False):
        if tensor.is_meta:
            raise TrimformerError(f"{name}.{key} is on the meta device and has no values; load the weights first")
        if tensor.is_quantized or type(tensor.data).__module__.startswith("torchao"):
            raise TrimformerError(f"{name}.{key} is quantized; pass the model before quantization")


def _check_plain(name: str, module: nn.Module) -> None:
    """Checks that a module's weights are plain parameters, not computed from others by a hook or parametrization."""
    if parametrize.is_parametrized(module):
        raise TrimformerError(
            f"{name} is parametrized; call torch.nn.utils.parametrize.remove_parametrizations on it first"
        )
    for hook in module._forward_pre_hooks.values():
        kinds = {kind.__name__ for kind in type(hook).__mro__}
        if "BasePruningMethod" in kinds:
            raise TrimformerError(
                f"{name} is pruned by torch.nn.utils.prune; call torch.nn.utils.prune.remove on it first"
            )
        if kinds & {"WeightNorm", "SpectralNorm"}:
            raise TrimformerError(
                f"{name} has a norm of its weights; call torch.nn.utils.remove_weight_norm or remove_spectral_norm"
            )
        if _hook_name(hook).startswith("register_mask"):
            raise TrimformerError(
                f"{name} is masked already; remove the masks, or call trimformer.shrink with them first"
            )
