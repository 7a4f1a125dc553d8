"""Sizes that a family's own config can express: one FFN width, a number of layers, and for some one number of heads."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.models.sublayer import KINDS, Sublayer

# Names of a size in the configs of Transformers; a config has one of each.
_WIDTH = ("intermediate_size", "hidden_dim", "d_ff", "encoder_ffn_dim", "ffn_dim", "n_inner", "ffn_hidden_size")
_DEPTH = ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "n_layer")
_HEADS = ("num_attention_heads", "num_key_value_heads")
_PER_LAYER = ("layer_types", "no_rope_layers")  # names, or their ends, of lists with an entry per layer


def check_plain_layout(model: PreTrainedModel, sublayers: Sequence[Sublayer]) -> None:
    """Checks that the config has entries for the FFN width and the number of layers.

    Raises:
        TrimformerError: an entry is missing, or layers differ in size.
    """
    name, config = type(model).__name__, model.config
    widths = {s.num_units for s in sublayers if s.kind == "ffn"}
    heads = {s.num_units for s in sublayers if s.kind == "attention"}
    if len(widths) > 1 or len(heads) > 1:
        raise TrimformerError(
            f"layers of {name} differ in size, which a plain config cannot express; use the layout 'free'"
        )
    has_entries = widths and heads and _key(config, _WIDTH, widths.pop()) and _key(config, _DEPTH, _depth(sublayers))
    if not has_entries or {s.calls_per_pass for s in sublayers} != {1}:
        raise TrimformerError(
            f"the config of {name} has no entry for the width of its layers or for their number; use the layout 'free'"
        )


def _depth(sublayers: Sequence[Sublayer]) -> int:
    return len({s.layer for s in sublayers})


def _key(config: Any, names: Sequence[str], value: int) -> str | None:
    """Returns the name of the entry that holds a size, or of one that is None, as GPT-2's width is by default."""
    there = [name for name in names if hasattr(config, name)]
    return next((name for v in (value, None) for name in there if getattr(config, name) == v), None)


def supports_fewer_heads(sublayer: Sublayer) -> bool:
    """Returns whether the config has an entry for the head size, so that the number of heads can change."""
    configs = (getattr(module, "config", None) for module in sublayer.module.modules())
    return any("head_dim" in vars(config) for config in configs if config is not None)


def removable_layers(sublayers: Sequence[Sublayer]) -> list[int]:
    """Returns the indices of layers that can be removed: those of the most common structure, without the first."""
    modules = {s.layer: s.module for s in sublayers}
    structures = {layer: _structure(module) for layer, module in modules.items()}
    most_common = Counter(structures.values()).most_common(1)[0][0]
    return [layer for layer in list(modules)[1:] if structures[layer] == most_common]


def _structure(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())


def write_sizes(model: PreTrainedModel, before: Sequence[Sublayer], after: Sequence[Sublayer]) -> None:
    """Writes the sizes of a pruned model into its config, in place.

    Args:
        model: the model that has the config.
        before: sublayers of the dense model.
        after: the remaining sublayers; their `layer` is the index in the dense model.
    """
    config = model.config
    depth, kept_layers = _depth(before), sorted({s.layer for s in after})
    (old_heads, new_heads), (old_width, new_width) = (
        [next(s.num_units for s in sublayers if s.kind == kind) for sublayers in (before, after)] for kind in KINDS
    )
    setattr(config, _existing_key(config, _WIDTH, old_width), new_width)
    setattr(config, _existing_key(config, _DEPTH, depth), len(kept_layers))
    for name, value in list(vars(config).items()):
        if name.endswith(_PER_LAYER) and isinstance(value, list) and len(value) == depth:
            setattr(config, name, [value[i] for i in kept_layers])
    if old_heads != new_heads:
        config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        for name in (name for name in _HEADS if hasattr(config, name)):
            setattr(config, name, getattr(config, name) * new_heads // old_heads)


def _existing_key(config: Any, names: Sequence[str], value: int) -> str:
    key = _key(config, names, value)
    assert key is not None, "checked by check_plain_layout"
    return key
