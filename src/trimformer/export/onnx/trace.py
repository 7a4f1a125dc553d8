"""From a model to an ONNX graph, before anything is rewritten in it."""

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
from trimformer.models.layer_calls import Batch, forward, model_inputs, replay_sublayers
from trimformer.models.masking import frozen

if TYPE_CHECKING:
    import onnx_ir

# What a model is asked for: the first of these that its output has.
_OUTPUTS = (
    ("logits",),
    ("start_logits", "end_logits"),
    ("text_embeds", "image_embeds"),
    ("text_embeds",),
    ("image_embeds",),
    ("last_hidden_state", "pooler_output"),
    ("last_hidden_state",),
)

_OF_IMAGES = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
_OF_SOUND = ("input_values", "attention_mask")  # where there are no texts

_INT32, _BOOL = 6, 9  # types, by their number in ONNX

_UNBOUNDED = 1 << 20

# The exporter's own version. For later ones it makes operators of what ONNX Runtime then does not take (rotations and
# attention with shapes to be broadcast); what it makes for this one means the same in them.
_NATIVE = 20


class BudgetRequest(nn.Module):
    """A model that takes a batch and gives a tuple of what it is asked for.

    Args:
        model: in evaluation mode.
        batch: tells what the model takes, and by one pass what it gives.
        embedding: ask for the embedding of each text too, the mean over its tokens.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch, embedding: bool = False) -> None:
        super().__init__()
        self.model, self._embedding = model, embedding
        with torch.no_grad():
            given = forward(model, batch)
        self.names = next((n for n in _OUTPUTS if all(given.get(name) is not None for name in n)), ())
        if find_problem(model) == "embedding" and "input_ids" in batch and "last_hidden_state" in self.names:
            self.names = ("last_hidden_state",)  # the pooled output was trained for another task
        if not self.names:
            raise TrimformerError(f"{type(model).__name__} gives none of the outputs that can be exported")

    @property
    def output_names(self) -> list[str]:
        return ["token_embeddings", "sentence_embedding"] if self._embedding else list(self.names)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        output = forward(self.model, inputs)
        values = tuple(output[name] for name in self.names)
        return (*values, model_output(self.model, inputs, "embedding")) if self._embedding else values


def trace(asked: BudgetRequest, batch: Batch, opset: int = OPSET) -> "onnx_ir.Model":
    """The graph that computes what is asked for, for any number of samples and tokens.

    Args:
        asked: holds the model.
        batch: of at least one sample.
        opset: version of ONNX's operators.

    Raises:
        Exception: whatever the exporter raises for what it cannot do.
    """
    inputs = {name: _several(value) for name, value in model_inputs(batch).items()}
    shapes = {"inputs": _dynamic(asked.model, inputs)}
    with ExitStack() as stack:
        if "token_type_ids" not in inputs:
            stack.enter_context(_of_one_type(asked.model))
        return _export(asked, asked.model, {"inputs": inputs}, list(inputs), asked.output_names, shapes, opset)


def trace_layer(layer: nn.Module, model: PreTrainedModel, hidden: Tensor, opset: int = OPSET) -> "onnx_ir.Model":
    """The graph of one layer by itself, for hidden states of this shape only.

    Args:
        layer: takes `hidden` and gives the layer's output.
        model: what the layer is of.
        hidden: [batch, length, hidden].
        opset: version of ONNX's operators.

    Raises:
        Exception: whatever the exporter raises for what it cannot do.
    """
    return _export(layer, model, {"hidden": hidden}, ["hidden"], ["output"], None, opset)


def _export(
    module: nn.Module,
    model: PreTrainedModel,
    inputs: dict[str, Any],
    input_names: list[str],
    output_names: list[str],
    shapes: dict[str, Any] | None,
    opset: int,
) -> "onnx_ir.Model":
    for name in ("torch.onnx", "onnxscript", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.no_grad())
        stack.enter_context(frozen(model))
        stack.enter_context(one_node(model, opset))
        stack.enter_context(_without_the_empty(model))
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
    """What models check their inputs by, which the exporter has no operator for."""
    import onnxscript

    operators: Any = onnxscript.opset18
    least = operators.ReduceMin(operators.Cast(values, to=_INT32), keepdims=0)
    return operators.Cast(least, to=_BOOL)


def _several(value: Tensor) -> Tensor:
    """Two samples at least: what a tracer sees one of, it takes for a constant."""
    return value if len(value) > 1 else torch.cat([value, value])


def _dynamic(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
    length = Dim("length", max=max_positions(model.config, _UNBOUNDED))
    samples, images = Dim("batch"), Dim("images")
    shapes: dict[str, dict[int, Any]] = {}
    for name, value in inputs.items():
        is_image = name in _OF_IMAGES
        shapes[name] = {0: images if is_image and "input_ids" in inputs else samples}
        if not is_image and (axis := token_axis(inputs, value)):
            shapes[name][axis] = length
            if axis == 2:
                shapes[name][1] = Dim("choices")
        elif name in _OF_SOUND and value.dim() == 2:
            shapes[name][1] = Dim("samples")
    return shapes


def token_axis(inputs: Mapping[str, Tensor], value: Tensor) -> int:
    """The axis of an input that has an entry for each token of the texts; 0 where it has none."""
    shape = inputs["input_ids"].shape if "input_ids" in inputs else ()
    return len(shape) - 1 if shape and value.shape[: len(shape)] == shape else 0


@contextmanager
def _without_the_empty(model: PreTrainedModel) -> Iterator[None]:
    """A sublayer without units answers with its projection's bias, and nothing of it is computed."""
    empty = [s for s in find_sublayers(model) if not s.num_units]
    with replay_sublayers([(s, partial(_bias, s.projection)) for s in empty]):
        yield


def _bias(projection: Any, x: Tensor) -> Tensor:
    bias = projection.bias
    if bias is None:
        bias = projection.weight.new_zeros(max(projection.weight.shape))
    return bias.expand(*x.shape[:-1], -1)


@contextmanager
def _of_one_type(model: PreTrainedModel) -> Iterator[None]:
    """Tokens are all of the first type: one row for all of them, not one each."""
    tables = [m for name, m in model.named_modules() if name.endswith("token_type_embeddings")]
    try:
        for table in tables:
            vars(table)["forward"] = partial(_first_row, table)
        yield
    finally:
        for table in tables:
            vars(table).pop("forward", None)


def _first_row(table: Any, ids: Tensor) -> Tensor:
    row: Tensor = table.weight[0]
    return row
