"""Bytes that a language model takes in llama.cpp: all tensors of its GGUF file, and its key-value cache."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Costs, Floats
from trimformer.errors import TrimformerError
from trimformer.export.gguf.architecture import (
    QUANTIZED_BLOCK,
    LayerSize,
    choose_architecture,
    needs_head,
    pruned_graph,
)
from trimformer.export.gguf.graph_families import head_size, parts_of_layers
from trimformer.export.gguf.quantize import tensor_bytes
from trimformer.export.gguf.tensors import layer_tensors, list_tensors
from trimformer.models import Sublayer, find_sublayers, max_positions
from trimformer.options.choices import Quantization
from trimformer.options.gguf import DEFAULT_CONTEXT, GgufOptions

CELLS = 256  # llama.cpp rounds the tokens of a cache up to a multiple of this
_CACHE_BYTES = 2 * 2  # a key and a value, in float16


@dataclass(frozen=True)
class Memory:
    """Memory of a model in llama.cpp.

    Attributes:
        weights: bytes of the tensors of the GGUF file, embeddings and output matrix included.
        cache: bytes of the key-value cache.
    """

    weights: int
    cache: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.weights + self.cache


def cache_tokens(model: PreTrainedModel, options: GgufOptions) -> int:
    """Returns the tokens of the key-value cache.

    Raises:
        TrimformerError: the model does not take that many.
    """
    longest = max_positions(model.config, options.context or DEFAULT_CONTEXT)
    if options.context is not None and options.context > longest:
        raise TrimformerError(f"a context of {options.context} tokens is longer than the model takes, {longest}")
    return min(options.context or DEFAULT_CONTEXT, longest)


def model_memory(model: PreTrainedModel, quantization: Quantization, tokens: int) -> Memory:
    """Returns the memory of a dense or pruned model, to the byte.

    Args:
        model: a causal language model that llama.cpp runs.
        quantization: type of the GGUF file.
        tokens: of the cache.

    Raises:
        TrimformerError: llama.cpp has no graph that computes this model.
    """
    architecture = choose_architecture(model)
    weights = sum(tensor_bytes(tensor, quantization) for tensor in list_tensors(model, architecture))
    channels = head_size(model)
    return Memory(weights, sum(_cache(size.kv_heads, channels, tokens) for size in architecture.sizes))


def memory_costs(model: PreTrainedModel, quantization: Quantization, tokens: int) -> Costs:
    """Returns the bytes of every number of units of each sublayer.

    No model takes more than the sum over its sublayers. Models from which whole layers are left out take less, because
    a layer without heads still counts its smallest feed-forward sublayer.

    Args:
        model: the dense model.
        quantization: type of the GGUF file.
        tokens: of the cache.

    Raises:
        TrimformerError: llama.cpp has no graph that computes this model.
    """
    sublayers, graph = find_sublayers(model), pruned_graph(model)
    layers, channels = parts_of_layers(model), head_size(model)

    def level(sublayer: Sublayer, size: LayerSize) -> int:
        is_attention = sublayer.kind == "attention"
        weights = sum(
            tensor_bytes(tensor, quantization)
            for name, tensor in layer_tensors(layers[sublayer.layer], size, channels, graph)
            if name.startswith(("self_attn.", "input_layernorm")) == is_attention
        )
        return weights + (_cache(size.kv_heads, channels, tokens) if is_attention else 0)

    def levels(sublayer: Sublayer, queries: int) -> Floats:
        if sublayer.kind == "ffn":
            multiples = np.maximum(1, -(-np.arange(sublayer.num_units + 1) // QUANTIZED_BLOCK))
            bytes_of = [0, *(level(sublayer, LayerSize(1, 1, QUANTIZED_BLOCK * int(n))) for n in np.unique(multiples))]
            return np.asarray(bytes_of, dtype=np.float64)[multiples]
        empty = int(needs_head(layers[sublayer.layer], sublayer.layer == 0, graph))
        sizes = [LayerSize(empty, empty, QUANTIZED_BLOCK)]
        sizes += [LayerSize(k * queries, k, QUANTIZED_BLOCK) for k in range(1, sublayer.num_units + 1)]
        return np.asarray([level(sublayer, size) for size in sizes], dtype=np.float64)

    tables = [levels(s, s.queries) for s in sublayers]
    narrow = [[levels(s, m) for m in range(1, s.queries)] if s.queries_attribute else [] for s in sublayers]
    fixed = model_memory(model, quantization, tokens).total - sum(float(table[-1]) for table in tables)
    return Costs(tables, fixed, narrow=narrow)


def _cache(kv_heads: int, channels: int, tokens: int) -> int:
    """Returns the bytes of a layer's keys and values."""
    return _CACHE_BYTES * kv_heads * channels * -(-tokens // CELLS) * CELLS
