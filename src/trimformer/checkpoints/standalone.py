"""Writes directories of pruned models that load without trimformer, with `trust_remote_code=True`.

The config records how each module differs from the dense model, and `modeling_trimformer.py` beside it applies the
differences. The file works for every family. It includes the source of any trimformer class or hook that a module uses.
"""

import copy
import inspect
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from trimformer.checkpoints import standalone_template
from trimformer.checkpoints.load_guard import ENTRY, SHAPES, STANDALONE, is_pruned
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers, removal
from trimformer.models.linear import has_new_bias

FILE = "modeling_trimformer"

_IMPORTS = """
import torch.nn.functional as F
from torch import Tensor
""".lstrip()

_CLASS = '''
class {name}(Standalone, transformers.{name}):
    """Pruned by trimformer."""

    _auto_class = "{auto}"
    trimformer_prefix = "{prefix}"
'''.lstrip()


def check_standalone(model: PreTrainedModel) -> None:
    """Checks that a model can be saved as a standalone directory.

    Raises:
        TrimformerError: the model class is not one of Transformers, or no AutoModel class loads it.
    """
    if dense_class(model).__name__ != type(model).__name__:
        raise TrimformerError(
            f"a standalone directory needs a model class of Transformers itself; {type(model).__name__} is not one"
        )
    if not _auto_classes(model):
        raise TrimformerError(
            f"{type(model).__name__} is loaded by no AutoModel class, so that a standalone directory of it could not be"
        )


def write_standalone(model: PreTrainedModel, directory: Path) -> None:
    """Makes the directory of a pruned model loadable without trimformer.

    Args:
        model: the pruned model.
        directory: its directory, as written by `save_pretrained`.

    Raises:
        TrimformerError: the model is not pruned, or cannot be loaded by an AutoModel class.
    """
    check_standalone(model)
    if not is_pruned(model.config):
        raise TrimformerError(
            "nothing was removed from the model, or its own config tells what is left, so it loads without trimformer; "
            "leave out standalone"
        )
    dense_config = copy.deepcopy(model.config)
    dense_config.dtype = model.dtype  # saving leaves its name there, which some layers (Apertus) cannot read
    with torch.device("meta"):
        dense = dense_class(model)(dense_config)
    narrowed = _narrowed(model)
    changes = {name: _change(module, dense.get_submodule(name)) for name, module in narrowed.items()}
    file, name, autos, base = directory / "config.json", type(model).__name__, _auto_classes(model), _base(model)
    if any(changes[name] for name in _narrowed(model, "attention")):
        base = None  # vLLM, which asks for it, takes the number of heads from the config, and crashes
    auto_map, classes = dict.fromkeys(autos, name), [_CLASS.format(name=name, auto=autos[0], prefix="")]
    if base is not None:
        base_name = type(base).__name__
        auto_map["AutoModel"] = base_name
        classes.append(_CLASS.format(name=base_name, auto="AutoModel", prefix=f"{model.base_model_prefix}."))
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {
        SHAPES: {name: change for name, change in changes.items() if change},
        "auto_map": {auto: f"{FILE}.{kind}" for auto, kind in auto_map.items()},
        ENTRY: STANDALONE,
    }
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    text = "\n\n".join([inspect.getsource(standalone_template), *_sources(narrowed.values()), *classes])
    (directory / f"{FILE}.py").write_text(text, encoding="utf-8")


def restore_library_class(model: PreTrainedModel) -> None:
    """Gives a model from a standalone directory its class of Transformers back; it stays pruned."""
    if vars(model.config).pop(SHAPES, None) is not None:
        vars(model.config).pop("auto_map", None)
        if type(model).__module__.endswith(f".{FILE}"):
            model.__class__ = dense_class(model)


def dense_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """Returns the model's class in Transformers, or the nearest base class from there."""
    return next(c for c in type(model).__mro__ if _is_theirs(c))


def _auto_classes(model: PreTrainedModel) -> list[str]:
    """Names of the AutoModel classes that load this type of model."""
    found = []
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None) if isinstance(auto, type) else None
        known = () if mapping is None else mapping.get(type(model.config), ())
        classes = known if isinstance(known, (list, tuple)) else (known,)
        if type(model).__name__ in (c.__name__ for c in classes):
            found.append(name)
    return found


def _base(model: PreTrainedModel) -> PreTrainedModel | None:
    """Returns the model without its head, if `AutoModel` makes one of its class; engines such as vLLM ask for that."""
    base: Any = model.base_model
    if base is model or dense_class(base) is not type(base) or type(base.config) is not type(model.config):
        return None
    return base if "AutoModel" in _auto_classes(base) and "AutoModel" not in _auto_classes(model) else None


def _is_theirs(thing: Any) -> bool:
    return str(thing.__module__).split(".")[0] in ("transformers", "torch", "builtins", "abc")


def _narrowed(model: PreTrainedModel, *kinds: str) -> dict[str, nn.Module]:
    """The modules that pruning of some kinds of sublayers changes, by name; all kinds by default."""
    found: set[nn.Module] = set()
    for sublayer in (s for s in find_sublayers(model) if not kinds or s.kind in kinds):
        found |= {sublayer.projection, *(producer.linear for producer in sublayer.producers)}
        found |= {module for module, _ in sublayer.count_attributes}
        # With one query head left for each key-value head, its number is no attribute of the sublayer any more.
        found |= {m for m in sublayer.module.modules() if hasattr(m, "num_key_value_groups")}
        found |= {sublayer.head_selector[0]} if sublayer.head_selector else set()
        found |= {module for module, _ in sublayer.head_entries}
    return {name: module for name, module in model.named_modules() if module in found}


def _change(module: nn.Module, dense: nn.Module) -> dict[str, Any]:
    """The difference between a pruned and a dense module, as `standalone_template.Standalone` reads it."""
    is_new = has_new_bias(module)  # type: ignore[arg-type]
    shapes = {
        name: list(parameter.shape)
        for name, parameter in module.named_parameters(recurse=False)
        if not (is_new and name == "bias") and parameter.shape != dense.get_parameter(name).shape
    }
    values = {
        name: value
        for name, value in vars(module).items()
        if (type(value) is int or name == "kept") and value != vars(dense).get(name)
    }
    lists = {
        name: len(child)
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and len(child) != len(dense.get_submodule(name))  # type: ignore[arg-type]
    }
    change = {
        "shapes": shapes,
        "values": values,
        "lists": lists,
        "new_bias": is_new,
        "class": type(module).__name__ if type(module) is not type(dense) else None,
        "hooks": [[hook.func.__name__, *hook.args] for hook in _hooks(module)],
        "pre_hooks": [hook.__name__ for hook in _pre_hooks(module)],
    }
    return {key: value for key, value in change.items() if value}


def _hooks(module: nn.Module) -> list[partial[Any]]:
    hooks = [hook for hook in module._forward_hooks.values() if isinstance(hook, partial)]
    return [hook for hook in hooks if _is_ours(hook.func)]


def _pre_hooks(module: nn.Module) -> list[Any]:
    return [hook for hook in module._forward_pre_hooks.values() if inspect.isfunction(hook) and _is_ours(hook)]


def _is_ours(function: Any) -> bool:
    """Whether a function comes from trimformer or from a standalone directory."""
    return function.__module__ == removal.__name__ or function.__module__.endswith(f".{FILE}")


def _sources(modules: Iterable[nn.Module]) -> Iterator[str]:
    """Imports and sources of the trimformer classes and hooks that the modules use, each once."""
    needed: dict[Any, None] = {}
    for module in modules:
        needed |= dict.fromkeys(kind for kind in reversed(type(module).__mro__) if not _is_theirs(kind))
        needed |= dict.fromkeys([hook.func for hook in _hooks(module)] + _pre_hooks(module))
    bases = {base for thing in needed for base in getattr(thing, "__bases__", ()) if base.__module__ != "builtins"}
    yield _IMPORTS + "".join(sorted(f"from {b.__module__} import {b.__name__}\n" for b in bases if _is_theirs(b)))
    yield from (inspect.getsource(thing).rstrip() + "\n" for thing in needed)
