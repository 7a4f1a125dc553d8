"""Traces a model to an ONNX graph, before any rewrites."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem, model_output
from trimformer.errors import TrimformerError
from trimformer.export.onnx.attention import OPSET, one_node
from trimformer.models import find_sublayers, max_positions
from trimformer.models.layer_calls import Batch, forward, model_inputs, replaced_forward, replay_sublayers
from trimformer.models.masking import frozen

if TYPE_CHECKING:
    import onnx_ir

# Outputs of a file: the first of these sets that the model's output has.
_OUTPUTS = (
    ("logits",),
    ("start_logits", "end_logits"),
    ("text_embeds", "image_embeds"),
    ("text_embeds",),
    ("image_embeds",),
    ("last_hidden_state", "pooler_output"),
    ("last_hidden_state",),
)

_IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
_AUDIO_INPUTS = ("input_values", "attention_mask")  # of models without texts

_INT32, _BOOL = 6, 9  # ONNX data types

_UNBOUNDED = 1 << 20

# Operator set that the exporter targets. For later ones it emits operators that ONNX Runtime does not support (rotary
# embeddings and attention that broadcast). Its operators for this one mean the same in later sets.
_NATIVE = 20


class TupleModel(nn.Module):
    """A model that takes a batch and returns its exported outputs as a tuple.

    Args:
        model: in evaluation mode.
        batch: defines the inputs, and by one forward pass the outputs.
        embedding: also return the embedding of each text, the mean over its tokens.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch, embedding: bool = False) -> None:
        super().__init__()
        self.model, self._embedding = model, embedding
        with torch.no_grad():
            output = forward(model, batch)
        self.names = next((n for n in _OUTPUTS if all(output.get(name) is not None for name in n)), ())
        if find_problem(model) == "embedding" and "input_ids" in batch and "last_hidden_state" in self.names:
            self.names = ("last_hidden_state",)  # the pooled output was trained for another task
        if not self.names:
            raise TrimformerError(f"{type(model).__name__} gives none of the outputs that can be exported")

    @property
    def output_names(self) -> list[str]:
        """Names of the exported outputs."""
        return ["token_embeddings", "sentence_embedding"] if self._embedding else list(self.names)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Returns the exported outputs."""
        output = forward(self.model, inputs)
        values = tuple(output[name] for name in self.names)
        return (*values, model_output(self.model, inputs, "embedding")) if self._embedding else values


def trace(module: TupleModel, batch: Batch, opset: int = OPSET) -> "onnx_ir.Model":
    """Traces a model for any number of samples and tokens.

    Args:
        module: the model with its outputs.
        batch: at least one sample.
        opset: ONNX operator set.

    Raises:
        Exception: the exporter does not support the model.
    """
    inputs = {name: _at_least_two(value) for name, value in model_inputs(batch).items()}
    shapes = {"inputs": _dynamic(module.model, inputs)}
    with ExitStack() as stack:
        if "token_type_ids" not in inputs:
            stack.enter_context(_single_token_type(module.model))
        return _export(module, module.model, {"inputs": inputs}, list(inputs), module.output_names, shapes, opset)


def trace_layer(layer: nn.Module, model: PreTrainedModel, hidden: Tensor) -> "onnx_ir.Model":
    """Traces one layer for hidden states of one shape.

    Args:
        layer: takes `hidden` and returns the layer's output.
        model: the model that contains the layer.
        hidden: hidden states [batch, length, hidden].

    Raises:
        Exception: the exporter does not support the model.
    """
    return _export(layer, model, {"hidden": hidden}, ["hidden"], ["output"], None, OPSET)


def _export(
    module: nn.Module,
    model: PreTrainedModel,
    inputs: dict[str, Any],
    input_names: list[str],
    output_names: list[str],
    shapes: dict[str, Any] | None,
    opset: int,
) -> "onnx_ir.Model":
    """Runs PyTorch's exporter."""
    for name in ("torch.onnx", "onnxscript", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.no_grad())
        stack.enter_context(frozen(model))
        stack.enter_context(one_node(model, opset))
        stack.enter_context(_skip_empty_sublayers(model))
        program = torch.onnx.export(
            module,
            kwargs=inputs,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            opset_version=min(opset, _NATIVE),
            custom_translation_table={torch.ops.aten._is_all_true.default: _is_all_true},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.opset_imports[""] = opset
    return program.model


def _is_all_true(values: Any) -> Any:
    """Translates `aten._is_all_true`, with which models check their inputs; the exporter lacks it."""
    import onnxscript

    operators: Any = onnxscript.opset18
    least = operators.ReduceMin(operators.Cast(values, to=_INT32), keepdims=0)
    return operators.Cast(least, to=_BOOL)


def _at_least_two(value: Tensor) -> Tensor:
    """Repeats a single sample, because the tracer takes a size of 1 for a constant."""
    return value if len(value) > 1 else torch.cat([value, value])


def _dynamic(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
    """Returns the dynamic axes of each input."""
    length = Dim("length", max=max_positions(model.config, _UNBOUNDED))
    rows, images = Dim("batch"), Dim("images")
    shapes: dict[str, dict[int, Any]] = {}
    for name, value in inputs.items():
        is_image = name in _IMAGE_INPUTS
        shapes[name] = {0: images if is_image and "input_ids" in inputs else rows}
        if not is_image and (axis := token_axis(inputs, value)):
            shapes[name][axis] = length
            if axis == 2:
                shapes[name][1] = Dim("choices")
        elif name in _AUDIO_INPUTS and value.dim() == 2:
            shapes[name][1] = Dim("samples")
    return shapes


def token_axis(inputs: Mapping[str, Tensor], value: Tensor) -> int:
    """Returns the axis of an input that counts the tokens of a text; 0 if there is none."""
    shape = inputs["input_ids"].shape if "input_ids" in inputs else ()
    return len(shape) - 1 if shape and value.shape[: len(shape)] == shape else 0


@contextmanager
def _skip_empty_sublayers(model: PreTrainedModel) -> Iterator[None]:
    """Replaces sublayers without units by their projection's bias within the context."""
    empty = [s for s in find_sublayers(model) if not s.num_units]
    with replay_sublayers([(s, partial(_bias, s.projection)) for s in empty]):
        yield


def _bias(projection: Any, x: Tensor) -> Tensor:
    """Returns the output of a projection without input channels."""
    bias = projection.bias
    if bias is None:
        bias = projection.weight.new_zeros(max(projection.weight.shape))
    return bias.expand(*x.shape[:-1], -1)


@contextmanager
def _single_token_type(model: PreTrainedModel) -> Iterator[None]:
    """Makes all tokens share the first row of the token type table within the context."""
    tables = [m for name, m in model.named_modules() if name.endswith("token_type_embeddings")]
    with ExitStack() as stack:
        for table in tables:
            stack.enter_context(replaced_forward(table, partial(_first_row, table)))
        yield


def _first_row(table: Any, ids: Tensor) -> Tensor:
    """Returns the first row of an embedding table, whatever the ids."""
    row: Tensor = table.weight[0]
    return row
