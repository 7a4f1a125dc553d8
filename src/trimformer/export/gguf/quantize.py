"""Data types of GGUF files, and the encoding of one tensor."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimformer.errors import TrimformerError
from trimformer.export.gguf.tensors import POSITIONS, NamedTensor
from trimformer.options.choices import Quantization

_BLOCK = 32  # values with one scale


def tensor_type(tensor: NamedTensor, quantization: Quantization) -> Any:
    """Returns the GGML type of a tensor.

    Vectors stay in float32, and so do embeddings of positions, which are few and are added to all that follows. Rows
    that are not whole blocks are in float16 at the least.
    """
    import gguf

    types = gguf.GGMLQuantizationType
    if len(tensor.shape) == 1 or tensor.name == POSITIONS:
        return types.F32
    kind = types[quantization.upper()]
    return types.F16 if kind not in (types.F32, types.F16, types.BF16) and tensor.shape[-1] % _BLOCK else kind


def tensor_bytes(tensor: NamedTensor, quantization: Quantization) -> int:
    """Returns the bytes of a tensor in a file."""
    import gguf

    kind = tensor_type(tensor, quantization)
    return math.prod(gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind))


def file_type(quantization: Quantization) -> Any:
    """Returns llama.cpp's number for a file of mostly one type."""
    import gguf

    names = {"f32": "ALL_F32"}
    return gguf.LlamaFileType[names.get(quantization, f"MOSTLY_{quantization.upper()}")]


def encode(tensor: Tensor, kind: Any, name: str) -> Any:
    """Returns the values of a tensor as an array of a GGML type.

    Raises:
        TrimformerError: a value is too large for float16.
    """
    import gguf

    array = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
    if kind == gguf.GGMLQuantizationType.F32:
        return array
    if kind == gguf.GGMLQuantizationType.F16 and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise TrimformerError(f"{name} has values that float16 cannot hold; use --quantize bf16 or q8_0")
    return gguf.quants.quantize(array, kind)
