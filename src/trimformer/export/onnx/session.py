"""Builds optimized ONNX graphs, and sessions of them without a file for timing."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.batches import numbered_batches
from trimformer.errors import TrimformerError, flat
from trimformer.export.onnx.attention import OPSET
from trimformer.export.onnx.graph import optimize
from trimformer.export.onnx.int8 import quantize_weights
from trimformer.export.onnx.serve import open_session
from trimformer.export.onnx.trace import TupleModel, trace, trace_layer
from trimformer.models.layer_calls import Batch


def model_graph(model: PreTrainedModel, batch: Batch, opset: int = OPSET, embedding: bool = False) -> ir.Model:
    """Builds the optimized graph of a model for any number of samples and tokens.

    Raises:
        TrimformerError: the exporter does not support the model.
    """
    module = TupleModel(model, batch, embedding)
    with _one_sentence(model):
        graph = trace(module, batch, opset)
    optimize(graph)
    return graph


def model_bytes(model: PreTrainedModel, batch: Batch) -> bytes:
    """Returns the contents of an ONNX file of the model."""
    return _bytes(model_graph(model, batch))


def session_of(module: nn.Module, inputs: Mapping[str, Tensor], model: PreTrainedModel, *, int8: bool = False) -> Any:
    """Opens a model or layer in ONNX Runtime, without a file; the graph is that of `export_onnx` or `quantize`.

    Args:
        module: the model, or one of its layers that takes `hidden`.
        inputs: of its forward pass, on the CPU.
        model: the model that contains the module.
        int8: quantize the weights.

    Raises:
        TrimformerError: the exporter does not support the model, or ONNX Runtime cannot run it.
    """
    if module is model:
        (batch,) = numbered_batches([{**inputs}])
        graph = model_graph(model, batch)
    else:
        with _one_sentence(model):
            graph = trace_layer(module, model, inputs["hidden"])
        optimize(graph)
    if int8:
        quantize_weights(graph)
    return open_session(_bytes(graph))


def _bytes(graph: ir.Model) -> bytes:
    return ir.to_proto(graph).SerializeToString()


@contextmanager
def _one_sentence(model: PreTrainedModel) -> Iterator[None]:
    """Turns any error of the exporter into a one-sentence `TrimformerError`."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        name = type(model).__name__
        raise TrimformerError(
            f"{name} cannot be exported; PyTorch's exporter does not follow it: {_reason(cause)}"
        ) from error


def _reason(cause: BaseException) -> str:
    """Shortens an error of the exporter to its reason."""
    text = flat(cause)
    if constants := re.search(r"Constraints violated \((.*?)\)", text):
        return f"it computes for one size of {constants[1]} only"
    if "data-dependent" in text:
        return "which steps it takes depends on the values it reads"
    return text[:200] or type(cause).__name__
