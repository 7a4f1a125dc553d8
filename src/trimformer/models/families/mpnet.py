"""MPNet: a bias for each head and distance is made once, and handed to every layer."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


class KeptHeads(MPNetSelfAttention):  # type: ignore[misc]
    """Picks the position bias of the heads that are left."""

    kept: list[int]

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if position_bias is not None:
            position_bias = position_bias[:, self.kept or [0]]  # [batch, heads, length, length]
        return super().forward(hidden_states, attention_mask, position_bias, **kwargs)


def sublayers(layer: Any) -> Iterator[Sublayer]:
    heads, size = layer.attention.attn, layer.attention.attn.attention_head_size
    yield attention(
        producers(size, heads.q, heads.k, heads.v),
        heads.o,
        size,
        entry=heads.q,
        count_attributes={(heads, "all_head_size"): size},
        head_selector=(heads, KeptHeads),
    )
    yield ffn(producers(1, layer.intermediate.dense), layer.output.dense, entry=layer.intermediate.dense)
