"""Llama and similar models: grouped-query attention (a unit is a key-value head with its queries) and gated neurons.

Layers differ in where their norms are, and in whether attention and neurons read the same residual stream. Gates, norms
of queries and keys, and fused gate and up projections are found by the names of the modules.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from trimformer.models.sublayer import Producer, Sublayer, attention, ffn, producers, used_count_attributes

# Names of the inner projections of an FFN and of its output projection.
_NEURONS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("c_fc",), "c_proj"),
    (("fc_in",), "fc_out"),
)

# Names of the norm of queries and of the norm of keys.
_NORMS = (("q_norm", "q_layernorm", "query_layernorm"), ("k_norm", "k_layernorm", "key_layernorm"))


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a pre-norm layer: Llama, Qwen, Mistral, Gemma, Granite, SmolLM3, Starcoder 2, EuroBERT, ..."""
    yield from _sublayers(layer, layer.input_layernorm, layer.post_attention_layernorm)


def apertus(layer: Any) -> Iterator[Sublayer]:
    """Describes an `ApertusDecoderLayer`, a pre-norm layer with norms of other names."""
    yield from _sublayers(layer, layer.attention_layernorm, layer.feedforward_layernorm)


def post_norm(layer: Any) -> Iterator[Sublayer]:
    """Describes a post-norm layer with gated or plain neurons: Nomic-BERT, GTE, Jina embeddings v3."""
    yield from _sublayers(layer, layer.self_attn.q_proj, _neurons(layer.mlp)[0][0].linear)


def branch_norm(layer: Any) -> Iterator[Sublayer]:
    """Describes a layer with a norm after each sublayer, before it is added: OLMo 2 and 3, EXAONE 4."""
    outputs = (layer.post_attention_layernorm, layer.post_feedforward_layernorm)
    yield from _sublayers(layer, layer.self_attn.q_proj, _neurons(layer.mlp)[0][0].linear, outputs)


def sandwich(layer: Any) -> Iterator[Sublayer]:
    """Describes a layer with a norm before and after each sublayer: Gemma 2 and 3."""
    outputs = (layer.post_attention_layernorm, layer.post_feedforward_layernorm)
    yield from _sublayers(layer, layer.input_layernorm, layer.pre_feedforward_layernorm, outputs)


def glm4(layer: Any) -> Iterator[Sublayer]:
    """Describes a `Glm4DecoderLayer`, a sandwich with norms of other names."""
    outputs = (layer.post_self_attn_layernorm, layer.post_mlp_layernorm)
    yield from _sublayers(layer, layer.input_layernorm, layer.post_attention_layernorm, outputs)


def parallel(layer: Any) -> Iterator[Sublayer]:
    """Describes a layer whose attention and neurons read the same norm: Phi, Cohere, GPT-J."""
    norm = layer.ln_1 if hasattr(layer, "ln_1") else layer.input_layernorm
    yield from _sublayers(layer, norm, norm, parallel=True)


def stablelm(layer: Any) -> Iterator[Sublayer]:
    """Describes a `StableLmDecoderLayer`, whose attention and neurons run in sequence or in parallel."""
    yield from parallel(layer) if layer.use_parallel_residual else sublayers(layer)


def _sublayers(
    layer: Any,
    first: nn.Module,
    second: nn.Module,
    outputs: tuple[nn.Module | None, nn.Module | None] = (None, None),
    parallel: bool = False,
) -> Iterator[Sublayer]:
    multiplier = getattr(layer, "residual_multiplier", 1.0)
    heads = layer.attn if hasattr(layer, "attn") else layer.self_attn
    yield _attention(heads, first, output=outputs[0], multiplier=multiplier)
    inner, projection = _neurons(layer.mlp)
    yield ffn(inner, projection, entry=second, output=outputs[1], parallel=parallel, multiplier=multiplier)


def _neurons(mlp: Any) -> tuple[tuple[Producer, ...], Any]:
    """Returns the linear layers that compute the neurons, and the output projection."""
    if hasattr(mlp, "gate_up_proj"):
        return producers(1, mlp.gate_up_proj, blocks=2), mlp.down_proj
    inner, outer = next(names for names in _NEURONS if all(hasattr(mlp, name) for name in names[0]))
    return producers(1, *(getattr(mlp, name) for name in inner)), getattr(mlp, outer)


def _attention(heads: Any, entry: nn.Module, **options: Any) -> Sublayer:
    """Describes grouped-query attention.

    A norm of the queries of all heads together (OLMo 2) would change with every head that is removed: there all heads
    are one unit. Where each head has weights of its own in a norm (Cohere, StableLM), they are removed with it.
    """
    size, groups = heads.head_dim, getattr(heads, "num_key_value_groups", 1)
    projection = next(getattr(heads, name) for name in ("o_proj", "out_proj", "dense") if hasattr(heads, name))
    norms = [next((getattr(heads, n) for n in names if getattr(heads, n, None) is not None), None) for names in _NORMS]
    shapes = [tuple(getattr(getattr(norm, "weight", None), "shape", ())) for norm in norms]
    if any(len(shape) == 1 and shape[0] > size for shape in shapes):
        (queries,), (keys,) = shapes
        qkv = (Producer(heads.q_proj, queries), *producers(keys, heads.k_proj, heads.v_proj))
        return attention(qkv, projection, queries, entry, runs_empty=True, **options)
    qkv = (Producer(heads.q_proj, size * groups), *producers(size, heads.k_proj, heads.v_proj))
    counts = used_count_attributes(heads, num_heads=groups, num_attention_heads=groups, num_key_value_heads=1)
    entries: dict[tuple[nn.Module, str], int] = {}
    for norm, shape, per_unit in zip(norms, shapes, (groups, 1), strict=True):
        if norm is not None and (len(shape) == 2 or hasattr(norm, "norms")):
            entries[norm, "weight" if shape else "norms"] = per_unit
    if groups > 1 and not counts and not entries:  # nothing else depends on the number of query heads
        options |= {"queries": groups, "queries_attribute": (heads, "num_key_value_groups")}
    return attention(qkv, projection, size * groups, entry, count_attributes=counts, head_entries=entries, **options)
