"""ONNX files of models, dense or pruned, for ONNX Runtime: exported, put into eight bits, and checked."""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import max_positions
from trimformer.arch.calls import Batch, forward
from trimformer.arch.masking import frozen
from trimformer.batches.calibration import token_mask
from trimformer.batches.output import divergence, find_problem, model_output, predict
from trimformer.choices import OPSETS as OPSETS
from trimformer.errors import TrimformerError, one_sentence
from trimformer.onnx.trace import token_axis

if TYPE_CHECKING:
    import onnx_ir


# The names of a folder `onnx` that Transformers.js, optimum and sentence-transformers know.
MODEL, QUANTIZED = "model.onnx", "model_quantized.onnx"

EMBEDDING = "sentence_embedding"  # the output that a model itself does not give

TOLERANCE = 1e-4  # of outputs up to 1, else relative to the largest

_MOST_BYTES = 2**31 - 2**20  # of a file in one piece


@dataclass(frozen=True)
class Written:
    """An ONNX file, and how its outputs on the example batches are from PyTorch's.

    Attributes:
        path: of the file.
        size: in bytes.
        difference: the largest of any output.
        divergence: mean over samples; see `divergence`.
    """

    path: Path
    size: int
    difference: float
    divergence: float


def check_onnx() -> None:
    """Raises:
    TrimformerError: a package is missing.
    """
    missing = [name for name in ("onnxruntime", "onnxscript", "onnx_ir") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrimformerError(f"ONNX files need {' and '.join(missing)}: pip install 'trimformer[onnx]'")


def write_files(
    model: PreTrainedModel,
    folder: Path,
    example_batches: Sequence[Batch],
    *,
    int8: bool,
    opset: int | None = None,
) -> list[Written]:
    """Writes `model.onnx`, and `model_quantized.onnx` if `int8`, into a folder; see `export_onnx` and `quantize`."""
    files = [export_onnx(model, folder / MODEL, example_batches, opset=opset)]
    if int8:
        files.append(quantize(folder / MODEL, folder / QUANTIZED, model, example_batches))
    return files


def export_onnx(
    model: PreTrainedModel,
    path: str | Path,
    example_batches: Sequence[Batch],
    *,
    opset: int | None = None,
    embedding: bool = False,
) -> Written:
    """Writes a file that gives what the model gives, for any number of samples and tokens.

    Args:
        model: in float32 on the CPU; left as it was.
        path: of the file; one that exists is replaced.
        example_batches: of real samples; the first tells what the file takes, on all of them it is checked.
        opset: version of ONNX's operators, 18 to 23; before 23, attention is an operator of ONNX Runtime's own.
        embedding: of a text encoder, give `token_embeddings` and `sentence_embedding`.

    Raises:
        TrimformerError: the model cannot be exported, or its file gives something else; nothing is written then.
    """
    check_onnx()
    from trimformer.onnx.session import model_graph

    opset = OPSETS[-1] if opset is None else opset
    _check(model, example_batches, opset, path)
    if embedding and (find_problem(model) != "embedding" or "input_ids" not in example_batches[0]):
        raise TrimformerError(f"{type(model).__name__} gives no embeddings of texts; leave out embedding=True")
    graph = model_graph(model, example_batches[0], opset, embedding)
    return _write(graph, path, model, _of_two_shapes(model, example_batches), TOLERANCE)


def quantize(source: str | Path, path: str | Path, model: PreTrainedModel, example_batches: Sequence[Batch]) -> Written:
    """Writes a file with the weights of another in eight bits; activations are quantized as they come.

    It is right on every CPU: weights keep seven bits of the eight, so that those without VNNI do not overflow.

    Args:
        source: a file of `export_onnx`.
        path: of the new file; one that exists is replaced.
        model: what the source was made of.
        example_batches: on which the two are compared.

    Raises:
        TrimformerError: the source is missing, or in eight bits already.
    """
    check_onnx()
    import onnx_ir

    from trimformer.onnx.int8 import is_quantized, quantize_weights

    _check(model, example_batches, OPSETS[-1], path)
    if not Path(source).is_file():
        raise TrimformerError(f"ONNX file '{source}' does not exist; write it with export_onnx")
    with one_sentence(f"'{source}' is no ONNX file"):
        graph = onnx_ir.load(str(source))
    if is_quantized(graph):
        raise TrimformerError(f"'{source}' is in eight bits already; give the file of export_onnx")
    if not quantize_weights(graph):
        raise TrimformerError(f"'{source}' has no matrices that could be put into eight bits")
    return _write(graph, path, model, example_batches, float("inf"))


def _check(model: PreTrainedModel, batches: Sequence[Batch], opset: int, path: str | Path) -> None:
    """Raises:
    TrimformerError: the arguments cannot be used.
    """
    if Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
        raise TrimformerError(f"ONNX file '{path}' is a folder, or in one that does not exist; name a file")
    if not batches:
        raise TrimformerError("there are no example batches; give at least one")
    if opset not in OPSETS:
        raise TrimformerError(f"opset {opset} is not one of {OPSETS[0]} to {OPSETS[-1]}")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        kind = f"{str(model.dtype).removeprefix('torch.')} on '{model.device}'"
        raise TrimformerError(f"the model is in {kind}; ONNX files are written from float32 on the CPU: move it there")
    size = sum(p.numel() for p in model.parameters()) * 4
    if size > _MOST_BYTES:
        raise TrimformerError(f"{type(model).__name__} takes {size / 1e9:.1f} GB; an ONNX file holds no more than 2")
    find_problem(model)


def _write(
    graph: "onnx_ir.Model", path: str | Path, model: PreTrainedModel, batches: Sequence[Batch], tolerance: float
) -> Written:
    """Writes and checks under another name, then renames."""
    import onnx_ir

    path = Path(path)
    with _temporary_beside(path) as temporary:
        onnx_ir.save(graph, temporary)
        difference, scale, apart = _compare(temporary, model, batches)
        if not difference <= tolerance * max(1.0, scale):
            raise TrimformerError(
                f"the ONNX file of {type(model).__name__} gives outputs up to {difference:.1e} from PyTorch's; it is "
                "not written"
            )
        size = temporary.stat().st_size
        os.replace(temporary, path)
    return Written(path, size, difference, apart)


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A file in the folder of another, gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".onnx")
    os.close(handle)
    os.chmod(name, 0o644)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@torch.no_grad()
def _compare(path: Path, model: PreTrainedModel, batches: Sequence[Batch]) -> tuple[float, float, float]:
    """(largest difference of any output, largest output, mean divergence) of a file from its model."""
    from trimformer.onnx.serve import open_session, served

    session, problem = open_session(path), find_problem(model)
    largest = scale = total = 0.0
    samples = 0
    with frozen(model):
        for given_batch in batches:
            batch = {"index": torch.arange(len(next(iter(given_batch.values())))), **given_batch}
            expected, [reference] = forward(model, batch), predict(model, [batch])
            with served(model, session), one_sentence(f"ONNX Runtime cannot run the file of {type(model).__name__}"):
                given, [output] = forward(model, batch), predict(model, [batch])
            for name, value in given.items():
                theirs = model_output(model, batch, "embedding") if name == EMBEDDING else expected[name]
                if value.shape != theirs.shape:
                    raise TrimformerError(
                        f"the ONNX file of {type(model).__name__} gives {name} of shape {list(value.shape)} where "
                        f"PyTorch gives {list(theirs.shape)}; it is not written"
                    )
                seen = _that_count(value, theirs, batch)
                largest = max(largest, _worst(seen[0] - seen[1]))
                scale = max(scale, _worst(seen[1]))
            total += float(divergence(output, reference, batch, problem).double().sum())
            samples += len(output)
    return largest, scale, total / samples


def _of_two_shapes(model: PreTrainedModel, batches: Sequence[Batch]) -> list[Batch]:
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
