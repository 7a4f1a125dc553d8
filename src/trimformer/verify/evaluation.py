"""Running a model over samples, scoring it, and comparing it with the dense model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.arch.calls import Batch
from trimformer.batches.calibration import make_batches, num_samples
from trimformer.batches.data import Rows
from trimformer.batches.output import Problem, divergence, find_problem, predict
from trimformer.batches.tasks import Task
from trimformer.progress import progress


def unbatch(outputs: Sequence[Tensor], batches: Sequence[Batch]) -> list[Tensor]:
    """One output per sample on the CPU, in the order of the features; tokens keep their padding."""
    samples: list[Tensor] = [torch.empty(0)] * num_samples(batches)
    for output, batch in zip(outputs, batches, strict=True):
        for sample, index in zip(output.float().cpu(), batch["index"].tolist(), strict=True):
            samples[index] = sample
    return samples


def mean_divergence(
    outputs: Sequence[Tensor], references: Sequence[Tensor], batches: Sequence[Batch], problem: Problem
) -> float:
    """Mean over samples of the distance of the outputs from the dense model's; see `divergence`."""
    total = sum(
        float(divergence(output.float(), reference.float(), batch, problem).double().sum())
        for output, reference, batch in zip(outputs, references, batches, strict=True)
    )
    return total / num_samples(batches)


class Scorer:
    """One evaluation set, encoded once and scored for any number of models.

    Args:
        name: of the set; only shown.
        rows: its examples.
        task: what they mean.
        model: gives configuration and device.
        tokenizer: its tokenizer.
        batch_size: the scores do not depend on it.

    Raises:
        TrimformerError: the rows do not fit the task or the model.
    """

    def __init__(
        self,
        name: str,
        rows: Rows,
        task: Task,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 32,
    ) -> None:
        self.name, self._rows, self._task = name, rows, task
        self._features = task.encode(rows, tokenizer, model.config)
        self.batches = make_batches(self._features, tokenizer, batch_size)
        self._problem = find_problem(model)

    def __call__(self, model: PreTrainedModel, desc: str = "evaluate") -> tuple[dict[str, float], list[Tensor]]:
        """The model's metrics, and its outputs per batch."""
        device = model.device
        batches = progress(self.batches, desc)
        outputs = predict(model, ({key: value.to(device) for key, value in batch.items()} for batch in batches))
        outputs = [output.cpu() for output in outputs]
        return self._task.score(unbatch(outputs, self.batches), self._features, self._rows), outputs

    def divergence(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float:
        """Mean distance of two models' outputs; see `mean_divergence`."""
        return mean_divergence(outputs, references, self.batches, self._problem)


def compare(scorers: Sequence[Scorer], dense: PreTrainedModel, pruned: PreTrainedModel) -> dict[str, Any]:
    """ "dense" and "pruned" metrics and their "divergence". The first set's metrics go by their own
    names, those of further sets follow the set's name, as in "validation_mismatched_accuracy"."""
    result: dict[str, Any] = {"dense": {}, "pruned": {}}
    for number, scorer in enumerate(scorers):
        outputs = {}
        for name, model in (("dense", dense), ("pruned", pruned)):
            metrics, outputs[name] = scorer(model, f"evaluate {name}")
            result[name] |= {f"{scorer.name}_{key}" if number else key: value for key, value in metrics.items()}
        if number == 0:
            result["divergence"] = scorer.divergence(outputs["pruned"], outputs["dense"])
    return result
