"""Writes a GGUF file, one tensor at a time."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from trimformer.export.gguf.architecture import FREE, Architecture
from trimformer.export.gguf.graph_families import graph_family_of, head_size, rotary
from trimformer.export.gguf.quantize import encode, file_type, tensor_type
from trimformer.export.gguf.tensors import NamedTensor
from trimformer.export.gguf.tokenizer import GgufVocabulary
from trimformer.options.choices import Quantization

_LAYER_NORM_EPS = ("layer_norm_eps", "layer_norm_epsilon")


def write_file(
    path: Path,
    model: PreTrainedModel,
    architecture: Architecture,
    tensors: Sequence[NamedTensor],
    vocabulary: GgufVocabulary,
    quantization: Quantization,
    name: str,
) -> None:
    """Writes a GGUF file.

    Args:
        path: of the new file.
        model: the model, for its config.
        architecture: as chosen for the model.
        tensors: of the file.
        vocabulary: the tokenizer as GGUF describes it.
        quantization: type of the matrices.
        name: of the model, for people.

    Raises:
        TrimformerError: a tensor cannot be encoded.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture.name)
    try:
        writer.add_name(name)
        writer.add_file_type(file_type(quantization))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_sizes(writer, model, architecture)
        vocabulary.add_to(writer)
        kinds = [tensor_type(tensor, quantization) for tensor in tensors]
        for tensor, kind in zip(tensors, kinds, strict=True):
            shape = gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind)
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(tensors, kinds, strict=True):
            writer.write_tensor_data(encode(tensor.make(), kind, tensor.name))
    finally:
        writer.close()


def _add_sizes(writer: Any, model: PreTrainedModel, architecture: Architecture) -> None:
    """Adds the sizes of the model: numbers for a plain architecture, lists for one of different layers."""
    config: Any = model.config
    embeddings: Any = model.get_input_embeddings()
    heads = [layer.heads for layer in architecture.sizes]
    kv_heads = [layer.kv_heads for layer in architecture.sizes]
    neurons = [layer.neurons for layer in architecture.sizes]
    is_plain = architecture.name not in FREE
    writer.add_block_count(len(architecture.sizes))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(embeddings.weight.shape[0])
    writer.add_head_count(heads[0] if is_plain else heads)
    writer.add_head_count_kv(kv_heads[0] if is_plain else kv_heads)
    writer.add_feed_forward_length(neurons[0] if is_plain else neurons)
    writer.add_key_length(head_size(model))
    writer.add_value_length(head_size(model))
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(next(getattr(config, name) for name in _LAYER_NORM_EPS if hasattr(config, name)))
    _add_positions(writer, model, architecture)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, name, None) is not None:
            getattr(writer, f"add_{name}")(getattr(config, name))


def _add_positions(writer: Any, model: PreTrainedModel, architecture: Architecture) -> None:
    """Adds rotary embeddings and sliding windows."""
    settings = rotary(model)
    if settings is not None:
        writer.add_rope_dimension_count(settings.channels)
        writer.add_rope_freq_base(settings.theta)
        if settings.window_theta is not None:
            writer.add_rope_freq_base_swa(settings.window_theta)
    if graph_family_of(model).window_every is not None:
        writer.add_sliding_window(model.config.sliding_window)
    if architecture.windows is not None:
        writer.add_sliding_window_pattern(architecture.windows)
