"""Encoders of T5 and mT5 (the first layer makes a bias for each head and distance, which all hand on) and of umT5."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


class _KeptHeads:
    """Picks the position bias of the heads that are left; hands on that of all."""

    kept: list[int]

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if position_bias is None and self.has_relative_attention_bias:  # type: ignore[attr-defined]
            length = hidden_states.shape[1]
            position_bias = self.compute_bias(length, length, device=hidden_states.device)  # type: ignore[attr-defined]
        chosen = None if position_bias is None else position_bias[:, self.kept or [0]]
        output = super().forward(hidden_states, mask=mask, position_bias=chosen, **kwargs)  # type: ignore[misc]
        return (output[0], position_bias, *output[2:])


class T5KeptHeads(_KeptHeads, T5Attention):  # type: ignore[misc]
    """See `_KeptHeads`."""


class MT5KeptHeads(_KeptHeads, MT5Attention):  # type: ignore[misc]
    """See `_KeptHeads`."""


class UMT5KeptHeads(UMT5Attention):  # type: ignore[misc]
    """Every layer makes its own bias."""

    kept: list[int]

    def compute_bias(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().compute_bias(*args, **kwargs)[:, self.kept or [0]]


_NARROWED = {T5Attention: T5KeptHeads, MT5Attention: MT5KeptHeads, UMT5Attention: UMT5KeptHeads}


def sublayers(layer: Any) -> Iterator[Sublayer]:
    if layer.is_decoder:
        return  # of an encoder-decoder only the encoder is pruned
    heads, neurons, entry = layer.layer[0].SelfAttention, layer.layer[-1].DenseReluDense, layer.layer[0].layer_norm
    size = heads.key_value_proj_dim
    narrowed = _NARROWED.get(type(heads), type(heads))  # one that was pruned is so already
    qkv, count_attributes = producers(size, heads.q, heads.k, heads.v), {(heads, "n_heads"): 1}
    yield attention(qkv, heads.o, size, entry, count_attributes=count_attributes, head_selector=(heads, narrowed))
    inner = (neurons.wi_0, neurons.wi_1) if hasattr(neurons, "wi_0") else (neurons.wi,)
    yield ffn(producers(1, *inner), neurons.wo, entry=layer.layer[-1].layer_norm)
