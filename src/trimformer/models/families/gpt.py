"""GPT-2 (transposed linear layers), and families of its time: GPT-NeoX, GPT-BigCode, OPT, Falcon."""

from collections.abc import Iterator
from typing import Any

from trimformer.errors import TrimformerError
from trimformer.models.sublayer import Sublayer, attention, ffn, producers


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


def opt(layer: Any) -> Iterator[Sublayer]:
    """Describes an `OPTDecoderLayer`, with norms before or after the sublayers."""
    heads, size = layer.self_attn, layer.self_attn.head_dim
    entries = (layer.self_attn_layer_norm, layer.final_layer_norm)
    first, second = entries if layer.do_layer_norm_before else (heads.q_proj, layer.fc1)
    qkv, counts = producers(size, heads.q_proj, heads.k_proj, heads.v_proj), {(heads, "num_heads"): 1}
    yield attention(qkv, heads.out_proj, size, entry=first, count_attributes=counts)
    yield ffn(producers(1, layer.fc1), layer.fc2, entry=second)


def falcon(layer: Any) -> Iterator[Sublayer]:
    """Describes a `FalconDecoderLayer`; its fused projection interleaves queries, key and value group by group.

    With one key and value for all queries (multi-query attention) the whole attention is one unit.

    Raises:
        TrimformerError: the attention has a position bias for each head (ALiBi).
    """
    heads, size, config = layer.self_attention, layer.self_attention.head_dim, layer.config
    if config.alibi:
        raise TrimformerError(
            "layers of class FalconDecoderLayer with ALiBi cannot be pruned: their attention receives a position bias "
            "for each head"
        )
    if heads.new_decoder_architecture:
        groups = config.num_attention_heads // config.num_kv_heads
    else:
        groups = config.num_attention_heads if heads.multi_query else 1
    if not config.parallel_attn:
        entries = (layer.input_layernorm, layer.post_attention_layernorm)
    elif hasattr(layer, "ln_attn"):
        entries = (layer.ln_attn, layer.ln_mlp)
    else:
        entries = (layer.input_layernorm, layer.input_layernorm)
    yield attention(
        producers((groups + 2) * size, heads.query_key_value),
        heads.dense,
        groups * size,
        entry=entries[0],
        count_attributes={(heads, "num_heads"): groups, (heads, "num_kv_heads"): 1},
    )
    neurons = producers(1, layer.mlp.dense_h_to_4h)
    yield ffn(neurons, layer.mlp.dense_4h_to_h, entry=entries[1], parallel=config.parallel_attn)
