"""Llama and similar models: grouped-query attention (a unit is a key-value head with its queries) and gated neurons."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from trimformer.models.sublayer import Producer, Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a pre-norm layer: Llama, Qwen, Mistral, EuroBERT, UltraBERT."""
    yield from _sublayers(layer, layer.input_layernorm, layer.post_attention_layernorm)


def post_norm(layer: Any) -> Iterator[Sublayer]:
    """Describes a post-norm layer with gated or plain neurons: Nomic-BERT, GTE, Jina embeddings v3."""
    ffn_input = layer.mlp.fc1 if hasattr(layer.mlp, "fc1") else layer.mlp.gate_proj
    yield from _sublayers(layer, layer.self_attn.q_proj, ffn_input)


def sandwich(layer: Any) -> Iterator[Sublayer]:
    """Describes a layer with a norm before and after each sublayer: Gemma 2 and 3."""
    outputs = (layer.post_attention_layernorm, layer.post_feedforward_layernorm)
    yield from _sublayers(layer, layer.input_layernorm, layer.pre_feedforward_layernorm, outputs)


def _sublayers(
    layer: Any, first: nn.Module, second: nn.Module, outputs: tuple[nn.Module | None, nn.Module | None] = (None, None)
) -> Iterator[Sublayer]:
    heads, mlp = layer.self_attn, layer.mlp
    size = heads.head_dim * getattr(heads, "num_key_value_groups", 1)
    qkv = (Producer(heads.q_proj, size), *producers(heads.head_dim, heads.k_proj, heads.v_proj))
    yield attention(qkv, heads.o_proj, size, entry=first, output=outputs[0])
    inner, projection = ((mlp.fc1,), mlp.fc2) if hasattr(mlp, "fc1") else ((mlp.gate_proj, mlp.up_proj), mlp.down_proj)
    yield ffn(producers(1, *inner), projection, entry=second, output=outputs[1])
