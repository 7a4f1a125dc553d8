"""DistilBERT as Transformers ships it: the output projections live inside the attention and the FFN."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from trimformer.arch.sublayer import Family, Sublayer


def _sublayers(layer: Any, index: int) -> Iterator[Sublayer]:
    attention, ffn = layer.attention, layer.ffn

    def attention_channels(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        captured: list[Tensor] = []
        handle = attention.out_lin.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
        try:
            attention(hidden, attention_mask)
        finally:
            handle.remove()
        return captured[0]

    yield Sublayer(
        kind="attention",
        layer=index,
        projection=attention.out_lin,
        producers=(attention.q_lin, attention.k_lin, attention.v_lin),
        norm=layer.sa_layer_norm,
        channels=attention_channels,
        unit_size=attention.attention_head_size,
        empty=lambda: setattr(attention, "forward", partial(_no_heads, attention.out_lin)),
    )
    yield Sublayer(
        kind="ffn",
        layer=index,
        projection=ffn.lin2,
        producers=(ffn.lin1,),
        norm=layer.output_layer_norm,
        channels=lambda hidden, attention_mask: ffn.activation(ffn.lin1(hidden)),
        unit_size=1,
    )


def _no_heads(projection: nn.Linear, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Attention without heads: the projection of no channels, and weights [batch, 0, length, length]."""
    batch, length = hidden_states.shape[:2]
    return projection(hidden_states[..., :0]), hidden_states.new_empty(batch, 0, length, length)


FAMILY = Family(
    model_types=("distilbert",),
    layers=lambda base: base.transformer.layer,
    sublayers=_sublayers,
)
