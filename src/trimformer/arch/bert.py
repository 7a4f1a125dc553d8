"""BERT and the families that share its layout."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from trimformer.arch.sublayer import Family, Sublayer


def _sublayers(layer: Any, index: int) -> Iterator[Sublayer]:
    attention, heads = layer.attention, layer.attention.self
    yield Sublayer(
        kind="attention",
        layer=index,
        projection=attention.output.dense,
        producers=(heads.query, heads.key, heads.value),
        norm=attention.output.LayerNorm,
        channels=lambda hidden, attention_mask: heads(hidden, attention_mask)[0],
        unit_size=heads.attention_head_size,
        empty=lambda: setattr(heads, "forward", _no_heads),
    )
    yield Sublayer(
        kind="ffn",
        layer=index,
        projection=layer.output.dense,
        producers=(layer.intermediate.dense,),
        norm=layer.output.LayerNorm,
        channels=lambda hidden, attention_mask: layer.intermediate(hidden),
        unit_size=1,
    )


def _no_heads(hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Attention without heads: channels [batch, length, 0] and weights [batch, 0, length, length]."""
    batch, length = hidden_states.shape[:2]
    return hidden_states[..., :0], hidden_states.new_empty(batch, 0, length, length)


FAMILY = Family(
    model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra"),
    layers=lambda base: base.encoder.layer,
    sublayers=_sublayers,
)
