"""Files of models: written under another name, compared with PyTorch, and only then renamed."""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import token_mask
from trimformer.data.outputs import divergence, find_problem, model_output, predict
from trimformer.errors import TrimformerError, one_sentence
from trimformer.export.onnx.serve import served
from trimformer.export.onnx.trace import token_axis
from trimformer.models import max_positions
from trimformer.models.layer_calls import Batch, forward
from trimformer.models.masking import frozen

EMBEDDING = "sentence_embedding"  # the output that a model itself does not give

TOLERANCE = 1e-4  # of outputs up to 1, else relative to the largest

_MOST_BYTES = 2**31 - 2**20  # of a file in one piece


@dataclass(frozen=True)
class Written:
    """A file, and how its outputs on the example batches are from PyTorch's.

    Attributes:
        path: of the file.
        size: in bytes, with what lies beside it.
        difference: the largest of any output.
        divergence: mean over samples; see `divergence`.
    """

    path: Path
    size: int
    difference: float
    divergence: float


@dataclass(frozen=True)
class Runtime:
    """What runs files.

    Attributes:
        name: for people.
        kind: of its files, for people.
        open: a session of a file, with ONNX Runtime's `get_inputs`, `get_outputs` and `run`.
    """

    name: str
    kind: str
    open: Callable[[Path], Any]


def check_packages(kind: str, names: Sequence[str], extra: str) -> None:
    """Raises:
    TrimformerError: a package that files of this kind need is missing.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise TrimformerError(f"{kind} files need {' and '.join(missing)}: pip install 'trimformer[{extra}]'")


def check_written(model: PreTrainedModel, batches: Sequence[Batch], path: str | Path, kind: str) -> None:
    """Raises:
    TrimformerError: no file of this kind can be written there, of this model, or compared on these batches.
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


def write(
    path: str | Path,
    save: Callable[[Path], None],
    runtime: Runtime,
    model: PreTrainedModel,
    batches: Sequence[Batch],
    tolerance: float = float("inf"),
) -> Written:
    """Writes and compares in a folder beside, then renames.

    Args:
        path: of the file; one that exists is replaced.
        save: writes it to another path, maybe with others of the same stem beside it.
        runtime: what runs it.
        model: what it was made of.
        batches: on which the two are compared.
        tolerance: of outputs up to 1, else relative to the largest.

    Raises:
        TrimformerError: the file cannot be run, or gives something else; nothing is written then.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temporary = Path(folder) / path.name
        save(temporary)
        difference, scale, apart = _compare(temporary, runtime, model, batches)
        if not difference <= tolerance * max(1.0, scale):
            raise TrimformerError(
                f"the {runtime.kind} file of {type(model).__name__} gives outputs up to {difference:.1e} from "
                "PyTorch's; it is not written"
            )
        files = sorted(temporary.parent.iterdir())  # weights, .bin, before the .xml that needs them
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, path.with_name(file.name))
    return Written(path, size, difference, apart)


def of_two_shapes(model: PreTrainedModel, batches: Sequence[Batch]) -> list[Batch]:
    """The batches; where all have as many samples, or tokens, one more with one of both more, the token of padding.

    A number that the file took for a constant would otherwise not be seen.
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
    """(largest difference of any output, largest output, mean divergence) of a file from its model."""
    session, problem = runtime.open(path), find_problem(model)
    largest = scale = total = 0.0
    samples = 0
    with frozen(model):
        for given_batch in batches:
            batch = {"index": torch.arange(len(next(iter(given_batch.values())))), **given_batch}
            expected, [reference] = forward(model, batch), predict(model, [batch])
            with served(model, session), one_sentence(f"{runtime.name} cannot run the file of {type(model).__name__}"):
                given, [output] = forward(model, batch), predict(model, [batch])
            for name, value in given.items():
                theirs = model_output(model, batch, "embedding") if name == EMBEDDING else expected[name]
                if value.shape != theirs.shape:
                    raise TrimformerError(
                        f"the {runtime.kind} file of {type(model).__name__} gives {name} of shape {list(value.shape)} "
                        f"where PyTorch gives {list(theirs.shape)}; it is not written"
                    )
                seen = _that_count(value, theirs, batch)
                largest = max(largest, _worst(seen[0] - seen[1]))
                scale = max(scale, _worst(seen[1]))
            total += float(divergence(output, reference, batch, problem).double().sum())
            samples += len(output)
    return largest, scale, total / samples


def _that_count(value: Tensor, expected: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Both without what stands at padding, which may be anything."""
    if "input_ids" in batch and value.shape[:2] == batch["input_ids"].shape:
        mask = token_mask(batch)
        return value[mask], expected[mask]
    return value, expected


def _worst(values: Any) -> float:
    """The largest magnitude; not a number is the worst of all."""
    worst = float(values.abs().max())
    return worst if worst == worst else float("inf")
