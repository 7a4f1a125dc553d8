"""Encoders of T5 and mT5, whose first layer computes a position bias per head for all layers, and of umT5."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


class _KeptHeads:
    """Attention that selects the position bias of the remaining heads and returns the bias of all dense heads."""

    kept: list[int]

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Runs T5's attention; `position_bias` is that of all dense heads."""
        if position_bias is None and self.has_relative_attention_bias:  # type: ignore[attr-defined]
            length = hidden_states.shape[1]
            position_bias = self.compute_bias(length, length, device=hidden_states.device)  # type: ignore[attr-defined]
        selected = None if position_bias is None else position_bias[:, self.kept or [0]]
        output = super().forward(hidden_states, mask=mask, position_bias=selected, **kwargs)  # type: ignore[misc]
        return (output[0], position_bias, *output[2:])


class T5KeptHeads(_KeptHeads, T5Attention):  # type: ignore[misc]
    """T5's attention with the remaining heads."""


class MT5KeptHeads(_KeptHeads, MT5Attention):  # type: ignore[misc]
    """mT5's attention with the remaining heads."""


class UMT5KeptHeads(UMT5Attention):  # type: ignore[misc]
    """umT5's attention with the remaining heads; every layer computes its own position bias."""

    kept: list[int]

    def compute_bias(self, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the position bias of the remaining heads."""
        return super().compute_bias(*args, **kwargs)[:, self.kept or [0]]


_SELECTORS = {T5Attention: T5KeptHeads, MT5Attention: MT5KeptHeads, UMT5Attention: UMT5KeptHeads}


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes the encoder block of a T5, mT5 or umT5; decoder blocks have no sublayers to prune."""
    if layer.is_decoder:
        return
    heads, neurons, entry = layer.layer[0].SelfAttention, layer.layer[-1].DenseReluDense, layer.layer[0].layer_norm
    size = heads.key_value_proj_dim
    selector = _SELECTORS.get(type(heads), type(heads))  # a pruned attention is a selector already
    qkv, counts = producers(size, heads.q, heads.k, heads.v), {(heads, "n_heads"): 1}
    yield attention(qkv, heads.o, size, entry, count_attributes=counts, head_selector=(heads, selector))
    inner = (neurons.wi_0, neurons.wi_1) if hasattr(neurons, "wi_0") else (neurons.wi,)
    yield ffn(producers(1, *inner), neurons.wo, entry=layer.layer[-1].layer_norm)
