"""What the config of a family can say of sizes: one FFN width, a number of layers, and for some one number of heads."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.models.sublayer import KINDS, Sublayer

# Names of a size in the configs of Transformers: of each a config has one.
_WIDTH = ("intermediate_size", "hidden_dim", "d_ff", "encoder_ffn_dim", "ffn_dim", "n_inner")
_DEPTH = ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "n_layer")
_HEADS = ("num_attention_heads", "num_key_value_heads")


def check_plain_layout(model: PreTrainedModel, sublayers: Sequence[Sublayer]) -> None:
    """Makes sure that the config can say how wide the feed-forward networks are and how many layers there are.

    Raises:
        TrimformerError: it cannot.
    """
    name, config = type(model).__name__, model.config
    widths = {s.num_units for s in sublayers if s.kind == "ffn"}
    heads = {s.num_units for s in sublayers if s.kind == "attention"}
    if len(widths) > 1 or len(heads) > 1:
        raise TrimformerError(f"layers of {name} differ in size, which no plain config can say; use the layout 'free'")
    says = widths and heads and _key(config, _WIDTH, widths.pop()) and _key(config, _DEPTH, _depth(sublayers))
    if not says or {s.calls_per_pass for s in sublayers} != {1}:
        raise TrimformerError(
            f"the config of {name} has no entry for the width of its layers or for their number; use the layout 'free'"
        )


def _depth(sublayers: Sequence[Sublayer]) -> int:
    return len({s.layer for s in sublayers})


def _key(config: Any, names: Sequence[str], value: int) -> str | None:
    return next((name for name in names if getattr(config, name, None) == value), None)


def supports_fewer_heads(sublayer: Sublayer) -> bool:
    """Whether the config has an entry for the size of a head, so that there may be fewer of them."""
    configs = (getattr(module, "config", None) for module in sublayer.module.modules())
    return any("head_dim" in vars(config) for config in configs if config is not None)


def removable_layers(sublayers: Sequence[Sublayer]) -> list[int]:
    """Layers that may be left out: built like most others, and not the first, which others lean on."""
    modules = {s.layer: s.module for s in sublayers}
    built = {layer: _built(module) for layer, module in modules.items()}
    usual = Counter(built.values()).most_common(1)[0][0]
    return [layer for layer in list(modules)[1:] if built[layer] == usual]


def _built(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())


def write_sizes(model: PreTrainedModel, before: Sequence[Sublayer], after: Sequence[Sublayer]) -> None:
    """Writes the sizes of what is left into a model's config, in place.

    Args:
        model: whose config it is.
        before: sublayers of the dense model.
        after: those that are left; their `layer` is the one that they were.
    """
    config = model.config
    units = {kind: [next(s.num_units for s in some if s.kind == kind) for some in (before, after)] for kind in KINDS}
    old_depth, kept = _depth(before), sorted({s.layer for s in after})
    setattr(config, _named(config, _WIDTH, units["ffn"][0]), units["ffn"][1])
    setattr(config, _named(config, _DEPTH, old_depth), len(kept))
    for name, value in list(vars(config).items()):
        if name.endswith("layer_types") and isinstance(value, list) and len(value) == old_depth:
            setattr(config, name, [value[i] for i in kept])
    heads, left = units["attention"]
    if heads != left:
        config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        for name in (name for name in _HEADS if hasattr(config, name)):
            setattr(config, name, getattr(config, name) * left // heads)


def _named(config: Any, names: Sequence[str], value: int) -> str:
    key = _key(config, names, value)
    assert key is not None, "checked by check_plain_layout"
    return key
