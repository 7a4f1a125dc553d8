"""MPNet: the model computes one position bias per head and passes it to every layer."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


class KeptHeads(MPNetSelfAttention):  # type: ignore[misc]
    """Attention that selects the position bias of the remaining heads."""

    kept: list[int]

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs MPNet's attention; `position_bias` is that of all dense heads."""
        if position_bias is not None:
            position_bias = position_bias[:, self.kept or [0]]  # [batch, heads, length, length]
        return super().forward(hidden_states, attention_mask, position_bias, **kwargs)


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes an `MPNetLayer`."""
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
