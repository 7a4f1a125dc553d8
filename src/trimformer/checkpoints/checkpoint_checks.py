"""Checks a checkpoint's config against its weights before a model is built."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from trimformer.checkpoints.load_guard import QUANT_METHOD, is_pruned
from trimformer.data.outputs import PROBLEM_TYPES
from trimformer.errors import TrimformerError, one_sentence, quoted
from trimformer.models import find_layers

logger = logging.getLogger(__name__)

MAX_LAYERS = 1000
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_ADAPTER_FILES = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "pytorch_adapter.bin",
)  # fmt: skip
_MAX_SIZE_RATIO = 500  # parameters per byte of weights; a pruned model's config is the dense one's
_ALWAYS_ALLOWED = 10_000_000  # parameters


def read_config(path: Path, model_type: str | None = None) -> PreTrainedConfig:
    """Reads the config of a model directory.

    Args:
        path: the directory.
        model_type: type of the model if its config states none, as configs of 2020 and before.

    Raises:
        TrimformerError: the config cannot be read, no type is stated or given, or the given one is wrong.
    """
    with one_sentence(f"the config of '{path}' cannot be read"):
        entries = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(entries, Mapping):
            raise TrimformerError("it is not a JSON object")
        stated = entries.get("model_type")
        if stated and model_type not in (None, stated):
            raise TrimformerError(
                f"it states the model type {quoted(stated)}; leave out --model-type {quoted(model_type)}"
            )
        if stated:
            return AutoConfig.from_pretrained(path)
        if model_type is None:
            raise TrimformerError(_no_model_type(entries))
        if model_type not in CONFIG_MAPPING:
            near = get_close_matches(model_type, CONFIG_MAPPING, n=1)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise TrimformerError(f"Transformers knows no model type {quoted(model_type)}{advice}")
        return CONFIG_MAPPING[model_type].from_pretrained(path)


def _no_model_type(entries: Mapping[str, Any]) -> str:
    """Returns an error for a config without a model type; the type that its architecture belongs to is named."""
    names: Any = entries.get("architectures")
    named: Any = getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    model_type = getattr(getattr(named, "config_class", None), "model_type", None)
    example = model_type or "bert"
    return (
        f"it has no model_type; give {'' if model_type else 'the type of the model, such as '}--model-type {example} "
        f'(in Python, load(..., model_type="{example}")), or write "model_type": "{example}" into config.json'
    )


def check_config(config: PreTrainedConfig, path: Path) -> None:
    """Checks that a config describes a model that can be loaded and pruned.

    Raises:
        TrimformerError: a size is impossible, the problem type is unknown, or another library quantized the model.
    """
    _check_sizes(config.to_dict(), path, "")
    problem = getattr(config, "problem_type", None)
    if problem not in PROBLEM_TYPES:
        raise TrimformerError(
            f"the config of '{path}' has the problem_type '{problem}'; "
            f"known are {', '.join(filter(None, PROBLEM_TYPES))}"
        )
    widths = getattr(config, "quantization_config", None)
    if widths is not None:
        method = widths.get("quant_method") if isinstance(widths, Mapping) else getattr(widths, "quant_method", None)
        if method != QUANT_METHOD:
            raise TrimformerError(f"the model in '{path}' is quantized by '{method}'; give the one it was made from")


def _check_sizes(entries: Mapping[str, Any], path: Path, prefix: str) -> None:
    for key, value in entries.items():
        if isinstance(value, Mapping) and key.endswith("_config") and key != "quantization_config":
            _check_sizes(value, path, f"{prefix}{key}.")
        counts_layers = "layers" in key and isinstance(value, int) and not isinstance(value, bool)
        if counts_layers and not -MAX_LAYERS <= value <= MAX_LAYERS:
            raise TrimformerError(
                f"the config of '{path}' has {prefix}{key} {value}; no model has more than {MAX_LAYERS} layers"
            )


def check_class(model_class: Any, config: PreTrainedConfig, path: Path) -> None:
    """Checks that the architecture in a config belongs to its model type.

    Raises:
        TrimformerError: the architecture belongs to another model type.
    """
    expected_type = getattr(getattr(model_class, "config_class", None), "model_type", None)
    if expected_type and expected_type != config.model_type and not isinstance(config, model_class.config_class):
        raise TrimformerError(
            f"the config of '{path}' has the model type '{config.model_type}', but names the architecture "
            f"{model_class.__name__}, which is of '{expected_type}'; one of them is wrong"
        )


def check_model_size(skeleton: PreTrainedModel, path: Path) -> None:
    """Checks that the model in the config is not far larger than the weight files.

    Raises:
        TrimformerError: the config describes a model that is far larger than its weights.
    """
    described = sum(tensor.numel() for tensor in skeleton.parameters())
    weight_bytes = sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in path.glob(kind))
    if described > max(_ALWAYS_ALLOWED, _MAX_SIZE_RATIO * weight_bytes):
        raise TrimformerError(
            f"the config of '{path}' describes a model of {described:,} parameters, but its weights are "
            f"{weight_bytes:,} bytes; is it another model's config?"
        )


def check_unexpected(names: Iterable[str], skeleton: PreTrainedModel, path: Path) -> None:
    """Checks that every weight of a layer has a place in the model.

    Raises:
        TrimformerError: the weights contain parts of layers that the config does not describe.
    """
    modules = {id(module): name for name, module in skeleton.named_modules()}
    stacks = {".".join(modules[id(layer)].split(".")[:-1][-2:]) for layer in find_layers(skeleton)}
    for name in sorted(names):
        if any(f".{stack}." in f".{name}" for stack in stacks if stack):
            raise TrimformerError(
                f"the weights in '{path}' hold {name}, which its config knows nothing of; is it the config of another "
                "model, or of fewer layers?"
            )


def check_layers_loaded(model: PreTrainedModel, info: Mapping[str, Any], path: Path) -> None:
    """Checks the loading info of `from_pretrained`: a head may be new, the rest of the model may not.

    Raises:
        TrimformerError: the weights lack parts of layers, or contain some that the config does not describe.
    """
    check_unexpected(info["unexpected_keys"], model, path)
    names = {name for name, module in model.named_modules() if any(module is layer for layer in find_layers(model))}
    missing = sorted(key for key in info["missing_keys"] if any(key.startswith(f"{name}.") for name in names))
    if missing:
        raise TrimformerError(
            f"the weights in '{path}' lack {missing[0]} ({len(missing)} missing in all); is its config another model's?"
        )
    inner = [entry for entry in info["mismatched_keys"] if entry[0].startswith(f"{model.base_model_prefix}.")]
    check_shapes(inner, path, ", and only a head can be replaced")


def check_shapes(mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]], path: Path, advice: str = "") -> None:
    """Checks that weights have the shapes that the config gives them.

    Args:
        mismatched: name, shape in the file and shape by the config, of those that differ.
        path: the model's directory.
        advice: ends the sentence.

    Raises:
        TrimformerError: a shape differs.
    """
    for name, found, expected in sorted(mismatched):
        raise TrimformerError(
            f"the weights in '{path}' do not match its config: {name} is {tuple(found)}, should be "
            f"{tuple(expected)}{advice}"
        )


def warn_of_own_code(config: PreTrainedConfig, model_class: Any, path: Path) -> None:
    """Warns where a config names code of its own for the model, which is never run."""
    own_code = getattr(config, "auto_map", None)
    names = own_code if isinstance(own_code, dict) else {}
    if not is_pruned(config) and any(name.startswith("AutoModel") for name in map(str, names)):
        logger.warning(
            "config.json of '%s' names code of its own (auto_map), which is not run: the library's %s is loaded, and "
            "may compute something else",
            path,
            model_class.__name__,
        )


def check_finite_weights(model: torch.nn.Module, weights: str) -> None:
    """Checks that every weight is finite.

    Raises:
        TrimformerError: a weight is NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta or not (parameter.is_floating_point() or parameter.is_complex()):
            continue
        bad = int(parameter.numel() - torch.isfinite(parameter.detach()).sum())
        if bad:
            kind = "NaN" if bool(torch.isnan(parameter.detach()).any()) else "infinite"
            raise TrimformerError(
                f"{weights} are not finite: {bad} of {parameter.numel()} values of {name} are {kind}; the checkpoint "
                "is broken, or was saved in too low a precision"
            )


def check_no_adapter(path: Path) -> None:
    """Checks that a directory holds a whole model, without an adapter such as LoRA's.

    Raises:
        TrimformerError: the directory holds an adapter, alone or beside whole weights.
    """
    names = [name for name in _ADAPTER_FILES if (path / name).is_file()]
    if not names:
        return
    base = None
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        base = json.loads((path / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    merge = "merge it into its base model with merge_and_unload() of PEFT, save that model and give its directory"
    if any((path / name).is_file() for name in WEIGHT_FILES):
        raise TrimformerError(
            f"'{path}' holds an adapter ({names[0]}) beside whole weights, which would be pruned without it; {merge}, "
            "or remove the adapter's files"
        )
    of = f" of {quoted(base)}" if base else ""
    raise TrimformerError(f"'{path}' holds only an adapter{of} ({names[0]}), not a whole model; {merge}")


def check_weights(path: Path, advice: str = "copy or download it again") -> None:
    """Checks that a directory has all files of its weights.

    Raises:
        TrimformerError: it has none, or lacks a part of them.
    """
    if not any((path / name).is_file() for name in WEIGHT_FILES):
        raise TrimformerError(f"'{path}' has no weights (model.safetensors or pytorch_model.bin); {advice}")
    check_shards(path)


def check_shards(path: Path) -> None:
    """Checks that all files in the index of sharded weights exist in the same folder.

    Raises:
        TrimformerError: a file is missing or lies in another folder.
    """
    for index in (path / "model.safetensors.index.json", path / "pytorch_model.bin.index.json"):
        if not index.is_file() or (path / index.name.removesuffix(".index.json")).is_file():
            continue
        with one_sentence(f"'{index}' cannot be read"):
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            elsewhere = next((file for file in files if Path(file).name != file), None)
        if elsewhere is not None:
            raise TrimformerError(f"'{index}' names the file '{elsewhere}', which is not in its folder")
        missing = next((file for file in files if not (path / file).is_file()), None)
        if missing is not None:
            raise TrimformerError(f"'{path}' lacks '{missing}', a part of its weights; copy or download it again")
        return
