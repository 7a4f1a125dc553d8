"""GPT-2 (transposed linear layers), GPT-NeoX and Phi (attention and neurons side by side)."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Producer, Sublayer, attention, ffn, producers


def gpt2(layer: Any) -> Iterator[Sublayer]:
    heads, size = layer.attn, layer.attn.head_dim
    counts = {(heads, "split_size"): size}
    yield attention(
        producers(size, heads.c_attn, blocks=3), heads.c_proj, size, entry=layer.ln_1, count_attributes=counts
    )
    yield ffn(producers(1, layer.mlp.c_fc), layer.mlp.c_proj, entry=layer.ln_2)


def gpt_neox(layer: Any) -> Iterator[Sublayer]:
    """Query, key and value are interleaved head by head: one block of three times the head's size."""
    heads, size = layer.attention, layer.attention.head_size
    yield attention(producers(3 * size, heads.query_key_value), heads.dense, size, entry=layer.input_layernorm)
    neurons = producers(1, layer.mlp.dense_h_to_4h)
    beside = layer.use_parallel_residual
    yield ffn(neurons, layer.mlp.dense_4h_to_h, entry=layer.post_attention_layernorm, parallel=beside)


def phi(layer: Any) -> Iterator[Sublayer]:
    heads, size = layer.self_attn, layer.self_attn.head_dim * layer.self_attn.num_key_value_groups
    qkv = (Producer(heads.q_proj, size), *producers(heads.head_dim, heads.k_proj, heads.v_proj))
    yield attention(qkv, heads.dense, size, entry=layer.input_layernorm)
    yield ffn(producers(1, layer.mlp.fc1), layer.mlp.fc2, entry=layer.input_layernorm, parallel=True)
