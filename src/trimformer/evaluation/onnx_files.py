"""Compares the dense and the pruned model in ONNX Runtime, in float32 and in eight bits."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.timing import Timing, interleaved
from trimformer.data.batches import count_samples
from trimformer.errors import TrimformerError
from trimformer.evaluation.model_outputs import Outputs
from trimformer.evaluation.scores import Scorer
from trimformer.export.onnx.export import MODEL, QUANTIZED, write_files
from trimformer.export.onnx.serve import open_session, running_in
from trimformer.models.layer_calls import Batch

MAX_COMPARED_SAMPLES = 256  # samples at most, on which a file is compared with PyTorch


@dataclass(frozen=True)
class ComparedOnnx:
    """Scores and latency of one file in ONNX Runtime.

    Attributes:
        name: "dense", "dense + int8", "pruned" or "pruned + int8".
        scores: by name, as fractions.
        divergence: mean distance from the dense model in float32; see `trimformer.data.outputs.divergence`.
        neighbours: of embeddings, the share of nearest neighbours that stay.
        bytes: of the file.
        ms: a batch of the inputs that were timed.
        speedup: dense in float32 / this, turn by turn.
    """

    name: str
    scores: dict[str, float]
    divergence: float
    neighbours: float | None
    bytes: int
    ms: Timing
    speedup: Timing


def examples(batches: Sequence[Batch]) -> list[Batch]:
    """Returns some batches of all lengths, with about `MAX_COMPARED_SAMPLES` samples, to compare files on."""
    return list(batches[:: max(1, count_samples(batches) // MAX_COMPARED_SAMPLES)])


def write_onnx_files(model: PreTrainedModel, folder: Path, scorer: Scorer, *, int8: bool) -> None:
    """Exports a model's files to a new folder and compares each with PyTorch on samples of the scorer.

    Raises:
        TrimformerError: the model cannot be exported.
    """
    folder.mkdir(parents=True)
    write_files(on_cpu(model), folder, examples(scorer.batches), int8=int8)


def compare_onnx_files(
    models: Mapping[str, tuple[PreTrainedModel, Path]], scorer: Scorer, inputs: Mapping[str, Tensor]
) -> list[ComparedOnnx]:
    """Scores the files of models and times all files in turns.

    Args:
        models: by name, the dense one first; each with the folder of its files, see `write_onnx_files`.
        scorer: of the set to score on.
        inputs: to time with.
    """
    scored: list[tuple[str, dict[str, float], Outputs, Path]] = []
    calls: list[Callable[[], Any]] = []
    for name, (model, folder) in models.items():
        plain = on_cpu(model)
        kinds = {folder / MODEL: name, folder / QUANTIZED: f"{name} + int8"}
        for path, kind in ((path, kind) for path, kind in kinds.items() if path.is_file()):
            session = open_session(path)
            with running_in(plain, session):
                scored.append((kind, *scorer(plain, f"evaluate {kind}"), path))
            calls.append(partial(session.run, None, feeds(session, inputs)))
    laps = interleaved(calls, torch.device("cpu"))
    dense = scored[0][2]
    return [
        ComparedOnnx(
            kind,
            scores,
            scorer.divergence(outputs, dense),
            scorer.neighbours(outputs, dense),
            path.stat().st_size,
            Timing.of(times),
            Timing.of([dense_ms / ms for dense_ms, ms in zip(laps[0], times, strict=True)]),
        )
        for (kind, scores, outputs, path), times in zip(scored, laps, strict=True)
    ]


def on_cpu(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the model in float32 on the CPU: the model itself if it is, else a copy."""
    if model.device.type == "cpu" and model.dtype == torch.float32:
        return model
    return copy.deepcopy(model).float().cpu()  # type: ignore[no-any-return]


def feeds(session: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the inputs that a session reads, as arrays; missing token types are 0.

    Raises:
        TrimformerError: the session reads an input that is missing.
    """
    arrays = {name: value.cpu().numpy() for name, value in inputs.items()}
    if "input_ids" in arrays:
        arrays.setdefault("token_type_ids", np.zeros_like(arrays["input_ids"]))
    names = [value.name for value in session.get_inputs()]
    if missing := [name for name in names if name not in arrays]:
        raise TrimformerError(
            f"the data hold the input '{missing[0]}', for which no random values exist to time the model with; leave "
            "it out of the data"
        )
    return {name: arrays[name] for name in names}
