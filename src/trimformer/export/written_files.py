"""Writes exported files under a temporary name, compares them with PyTorch, and renames them."""

import copy
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import numbered_batches, token_mask
from trimformer.data.outputs import divergence, find_problem, model_output, predict
from trimformer.errors import TrimformerError, one_sentence
from trimformer.export.onnx.serve import running_in
from trimformer.export.onnx.trace import token_axis
from trimformer.models import max_positions
from trimformer.models.layer_calls import Batch, forward
from trimformer.models.masking import frozen

EMBEDDING = "sentence_embedding"  # an output that the model itself does not have

_ROUNDING = 8  # times the rounding error of PyTorch that another order of sums may cost
TOLERANCE = 1e-4  # absolute for outputs up to 1, else relative to the largest output

_MOST_BYTES = 2**31 - 2**20  # limit of one protobuf file


@dataclass(frozen=True)
class Written:
    """A written file and how far its outputs on the example batches are from PyTorch's.

    Attributes:
        path: of the file.
        size: in bytes, including weights in a separate file.
        difference: largest absolute difference of any output.
        divergence: mean over samples; see `trimformer.data.outputs.divergence`.
    """

    path: Path
    size: int
    difference: float
    divergence: float


@dataclass(frozen=True)
class Runtime:
    """A runtime for exported files.

    Attributes:
        name: of the runtime, for messages.
        kind: of its files, for messages.
        open: opens a file as a session with ONNX Runtime's `get_inputs`, `get_outputs` and `run`.
    """

    name: str
    kind: str
    open: Callable[[Path], Any]


def check_export_arguments(model: PreTrainedModel, batches: Sequence[Batch], path: str | Path, kind: str) -> None:
    """Checks the arguments of an export before any work.

    Raises:
        TrimformerError: the path, the model or the batches cannot be used, or the model's outputs are not finite.
    """
    if Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
        raise TrimformerError(f"{kind} file '{path}' is a folder, or in one that does not exist; name a file")
    if not batches:
        raise TrimformerError("there are no example batches; give at least one")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        dtype = f"{str(model.dtype).removeprefix('torch.')} on '{model.device}'"
        raise TrimformerError(
            f"the model is in {dtype}; {kind} files are written from float32 on the CPU: move it there"
        )
    size = sum(p.numel() for p in model.parameters()) * 4
    if size > _MOST_BYTES:
        raise TrimformerError(f"{type(model).__name__} takes {size / 1e9:.1f} GB; an ONNX file holds no more than 2")
    find_problem(model)
    _check_outputs(model, batches)


def _check_outputs(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Checks that the model's outputs are finite, so that a comparison with a file has a meaning.

    Raises:
        TrimformerError: an output is NaN or infinite.
    """
    outputs = predict(model, list(numbered_batches(batches)))
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise TrimformerError(
            f"the outputs of {type(model).__name__} are not finite numbers: its weights overflow in float32; repair "
            "the checkpoint before exporting it"
        )


def write(
    path: str | Path,
    save: Callable[[Path], None],
    runtime: Runtime,
    model: PreTrainedModel,
    batches: Sequence[Batch],
    tolerance: float = float("inf"),
) -> Written:
    """Writes a file in a temporary folder, compares it with the model, and moves it into place.

    Args:
        path: of the file; an existing file is replaced.
        save: writes the file to a given path; further files of the same stem may lie beside it.
        runtime: that runs the file.
        model: the exported model.
        batches: samples for the comparison.
        tolerance: largest difference; absolute for outputs up to 1, else relative to the largest output. Where
            rounding alone moves PyTorch's outputs as far, the difference may be 8 times that.

    Raises:
        TrimformerError: the file cannot be run, or its outputs differ; nothing is written then.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temporary = Path(folder) / path.name
        save(temporary)
        difference, scale, distance = _compare(temporary, runtime, model, batches)
        most = tolerance * max(1.0, scale)
        if most < difference < math.inf:  # some models amplify rounding, for a token in thousands
            most = max(most, _ROUNDING * _rounding_error(model, batches))
        if math.isinf(difference) or difference > most:
            raise TrimformerError(
                f"the {runtime.kind} file of {type(model).__name__} gives outputs up to {difference:.1e} from "
                "PyTorch's; it is not written"
            )
        files = sorted(temporary.parent.iterdir())  # .bin weights before the .xml that refers to them
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, path.with_name(file.name))
    return Written(path, size, difference, distance)


def of_two_shapes(model: PreTrainedModel, batches: Sequence[Batch]) -> list[Batch]:
    """Adds a batch of another shape if all batches have the same number of samples or of tokens.

    The comparison then detects a size that the export took for a constant. The added batch has one more sample and
    one more token, of padding.
    """
    batch = batches[0]
    main = "input_ids" if "input_ids" in batch else next(iter(batch))
    samples, lengths = ({b[main].shape[axis] for b in batches} for axis in (0, -1))
    if len(samples) > 1 and (len(lengths) > 1 or main != "input_ids"):
        return list(batches)
    grows = {"input_ids", "attention_mask"} <= set(batch)
    grows = grows and batch[main].shape[-1] < max_positions(model.config, sys.maxsize)
    padding = getattr(model.config, "pad_token_id", None) or 0
    more: dict[str, Tensor] = {}
    for name, value in batch.items():
        axis = token_axis(batch, value) if grows else 0
        value = torch.cat([value, value[:1]])
        if axis:
            column = torch.full_like(value.narrow(axis, 0, 1), padding if name == main else 0)
            value = torch.cat([value, column], dim=axis)
        more[name] = value
    return [*batches, more]


@torch.no_grad()
def _compare(
    path: Path, runtime: Runtime, model: PreTrainedModel, batches: Sequence[Batch]
) -> tuple[float, float, float]:
    """Returns (largest difference of any output, largest output, mean divergence) of a file from its model."""
    session, problem = runtime.open(path), find_problem(model)
    largest = scale = total = 0.0
    samples = 0
    with frozen(model):
        for example in batches:
            (batch,) = numbered_batches([example])
            expected, [reference] = forward(model, batch), predict(model, [batch])
            with (
                running_in(model, session),
                one_sentence(f"{runtime.name} cannot run the file of {type(model).__name__}"),
            ):
                actual, [output] = forward(model, batch), predict(model, [batch])
            for name, value in actual.items():
                reference_value = model_output(model, batch, "embedding") if name == EMBEDDING else expected[name]
                if value.shape != reference_value.shape:
                    raise TrimformerError(
                        f"the {runtime.kind} file of {type(model).__name__} gives {name} of shape {list(value.shape)} "
                        f"where PyTorch gives {list(reference_value.shape)}; it is not written"
                    )
                file_value, model_value = _without_padding(value, reference_value, batch)
                largest = max(largest, _max_magnitude(file_value - model_value))
                scale = max(scale, _max_magnitude(model_value))
            total += float(divergence(output, reference, batch, problem).double().sum())
            samples += len(output)
    return largest, scale, total / samples


@torch.no_grad()
def _rounding_error(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Returns the largest difference of any output from that of the model in float64; 0 if it does not run in it."""
    exact, largest = copy.deepcopy(model).double(), 0.0
    with frozen(model), frozen(exact), suppress(RuntimeError):
        for batch in numbered_batches(batches):
            doubles = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
            outputs, references = forward(model, batch), forward(exact, doubles)
            for name, value in outputs.items():
                if isinstance(value, Tensor):
                    pair = _without_padding(value.double(), references[name], batch)
                    largest = max(largest, _max_magnitude(pair[0] - pair[1]))
    return largest


def _without_padding(value: Tensor, expected: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Removes padding positions from both outputs; their values are arbitrary."""
    if "input_ids" in batch and value.shape[:2] == batch["input_ids"].shape:
        mask = token_mask(batch)
        return value[mask], expected[mask]
    return value, expected


def _max_magnitude(values: Any) -> float:
    """Returns the largest magnitude; infinity if any value is not a number."""
    largest = float(values.abs().max())
    return float("inf") if math.isnan(largest) else largest
