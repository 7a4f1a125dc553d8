"""GPT-2 (transposed linear layers), GPT-NeoX and Phi (parallel attention and FFN)."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Producer, Sublayer, attention, ffn, producers


def gpt2(layer: Any) -> Iterator[Sublayer]:
    """Describes a `GPT2Block`."""
    heads, size = layer.attn, layer.attn.head_dim
    counts = {(heads, "split_size"): size}
    yield attention(
        producers(size, heads.c_attn, blocks=3), heads.c_proj, size, entry=layer.ln_1, count_attributes=counts
    )
    yield ffn(producers(1, layer.mlp.c_fc), layer.mlp.c_proj, entry=layer.ln_2)


def gpt_neox(layer: Any) -> Iterator[Sublayer]:
    """Describes a `GPTNeoXLayer`; its fused projection interleaves query, key and value head by head."""
    heads, size = layer.attention, layer.attention.head_size
    yield attention(producers(3 * size, heads.query_key_value), heads.dense, size, entry=layer.input_layernorm)
    neurons = producers(1, layer.mlp.dense_h_to_4h)
    parallel = layer.use_parallel_residual
    yield ffn(neurons, layer.mlp.dense_4h_to_h, entry=layer.post_attention_layernorm, parallel=parallel)


def phi(layer: Any) -> Iterator[Sublayer]:
    """Describes a `PhiDecoderLayer`."""
    heads, size = layer.self_attn, layer.self_attn.head_dim * layer.self_attn.num_key_value_groups
    qkv = (Producer(heads.q_proj, size), *producers(heads.head_dim, heads.k_proj, heads.v_proj))
    yield attention(qkv, heads.dense, size, entry=layer.input_layernorm)
    yield ffn(producers(1, layer.mlp.fc1), layer.mlp.fc2, entry=layer.input_layernorm, parallel=True)
