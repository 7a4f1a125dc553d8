"""Scores models on evaluation sets and compares them with the dense model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import count_samples, make_batches
from trimformer.data.outputs import Problem, divergence, find_problem, predict
from trimformer.data.rows import Rows
from trimformer.data.tasks import Task
from trimformer.data.tasks.sample_labels import label_names
from trimformer.data.token_ids import check_token_ids
from trimformer.errors import TrimformerError
from trimformer.evaluation.changed_predictions import ChangedReport, SampleOutputs, find_changed
from trimformer.models.layer_calls import LABEL_KEYS, Batch
from trimformer.utils.progress import progress


def unbatch(outputs: Sequence[Tensor], batches: Sequence[Batch]) -> list[Tensor]:
    """Returns one output per sample on the CPU, in the order of the features; token outputs keep their padding."""
    samples: list[Tensor] = [torch.empty(0)] * count_samples(batches)
    for output, batch in zip(outputs, batches, strict=True):
        for sample, index in zip(output.float().cpu(), batch["index"].tolist(), strict=True):
            samples[index] = sample
    return samples


def divergences(
    outputs: Sequence[Tensor], references: Sequence[Tensor], batches: Sequence[Batch], problem: Problem
) -> Tensor:
    """Returns each sample's divergence from the dense model, [samples] in float64; see `divergence`."""
    per_batch = [
        divergence(output.float(), reference.float(), batch, problem).double()
        for output, reference, batch in zip(outputs, references, batches, strict=True)
    ]
    return torch.stack(unbatch(per_batch, batches)).double()


def _overflows(output: Tensor, batch: Batch) -> Tensor:
    """Returns whether each sample's output is NaN or infinite, [batch]; span heads may mask tokens with -inf."""
    bad = output.isnan() | (output == torch.inf)
    mask = batch.get("attention_mask")
    if mask is not None and output.dim() == 3 and mask.shape == output.shape[:2]:
        bad &= mask.bool().unsqueeze(-1)  # outputs at padding do not count
    return bad.flatten(1).any(1)


class Scorer:
    """One evaluation set, encoded once and scored for any number of models.

    Args:
        name: name of the set, for display.
        rows: rows of the set.
        task: task of the rows.
        model: the model, for its configuration and device.
        processor: the model's tokenizer or processor.
        batch_size: number of samples in a batch; the scores do not depend on it.

    Raises:
        TrimformerError: the rows do not fit the task or the model.
    """

    def __init__(
        self,
        name: str,
        rows: Rows,
        task: Task,
        model: PreTrainedModel,
        processor: Any,
        batch_size: int = 32,
    ) -> None:
        self.name, self.rows, self.task, self.batch_size = name, rows, task, batch_size
        self.features = task.encode(rows, processor, model.config)
        self.batches = make_batches(self.features, processor, batch_size)
        self.names = label_names(model.config)
        check_token_ids(model, self.batches)
        self._problem = find_problem(model)

    def __call__(self, model: PreTrainedModel, desc: str = "evaluate") -> tuple[dict[str, float], list[Tensor]]:
        """Returns the model's metrics and its outputs per batch."""
        device = model.device
        batches = progress(self.batches, desc)
        outputs = predict(model, ({key: value.to(device) for key, value in batch.items()} for batch in batches))
        outputs = [output.cpu() for output in outputs]
        self._check_finite(outputs, model)
        return self.task.score(unbatch(outputs, self.batches), self.features, self.rows), outputs

    def _check_finite(self, outputs: Sequence[Tensor], model: PreTrainedModel) -> None:
        """Checks that the outputs are finite; NaN would otherwise score like a bad model.

        Raises:
            TrimformerError: an output is not finite.
        """
        bad = [_overflows(output, batch).sum().item() for output, batch in zip(outputs, self.batches, strict=True)]
        if any(bad):
            raise TrimformerError(
                f"the model's outputs are not finite for {sum(bad):.0f} of {count_samples(self.batches)} samples of "
                f"'{self.name}': it overflows in {str(model.dtype).removeprefix('torch.')}; save it in "
                f"{'bfloat16 or float32' if model.dtype == torch.float16 else 'a higher precision, or mend it'}"
            )

    def score_some(self, outputs: Sequence[Tensor], rows: Sequence[int]) -> dict[str, float]:
        """Returns the metrics over some of the rows.

        Args:
            outputs: outputs of all samples; see `unbatch`.
            rows: indices of the rows.
        """
        features, selected = [], []
        for new, row in enumerate(rows):
            for i in self._parts[row]:
                feature = self.features[i]
                features.append({**feature, "example": new} if "example" in feature else feature)
                selected.append(outputs[i])
        return self.task.score(selected, features, [self.rows[row] for row in rows])

    @property
    def is_labelled(self) -> bool:
        """Whether the task has a metric and the samples have labels; those of embeddings are in the rows."""
        has_labels = any(key in self.features[0] for key in LABEL_KEYS) or self._problem == "embedding"
        return self.task.metric is not None and has_labels

    @cached_property
    def _parts(self) -> list[list[int]]:
        """Indices of each row's samples: the windows of a long text, else one."""
        parts: list[list[int]] = [[] for _ in self.rows]
        for i, feature in enumerate(self.features):
            parts[feature.get("example", i)].append(i)
        return parts

    def sample_outputs(self, outputs: Sequence[Tensor]) -> SampleOutputs:
        """Returns a model's outputs, one per feature, with the features."""
        return SampleOutputs(unbatch(outputs, self.batches), self.features)

    def samples(self, outputs: Sequence[Tensor]) -> Tensor:
        """Returns outputs of one size, such as embeddings, in the order of the rows, [samples, n]."""
        return torch.stack(unbatch(outputs, self.batches))

    def neighbours(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float | None:
        """Returns the share of nearest neighbours that stay, or None without embeddings; see `neighbour_overlap`."""
        return self._neighbours(outputs, references, self)

    def _neighbours(self, outputs: Sequence[Tensor], references: Sequence[Tensor], dense: "Scorer") -> float | None:
        """Like `neighbours`, for references in the batches of another scorer."""
        if self._problem != "embedding":
            return None
        texts = dense.distinct
        return neighbour_overlap(self.samples(outputs)[texts], dense.samples(references)[texts])

    @property
    def distinct(self) -> list[int]:
        """Indices of samples without duplicate texts, which would be nearest neighbours under any model."""
        first: dict[bytes, int] = {}
        for i, sample in enumerate(self.features):
            first.setdefault(np.asarray(sample.get("input_ids", -i)).tobytes(), i)
        return list(first.values())

    def divergences(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
        """Returns each sample's divergence between two models' outputs, [samples]; see `divergences`."""
        return divergences(outputs, references, self.batches, self._problem)

    def divergence(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float:
        """Returns the mean divergence between two models' outputs."""
        return float(self.divergences(outputs, references).mean())


NEIGHBOURS = 10


@dataclass(frozen=True)
class Scores:
    """Scores of the dense and the pruned model.

    Attributes:
        dense: the dense model's scores by name, as fractions.
        pruned: the pruned model's scores.
        divergence: mean divergence of the outputs.
        neighbours: share of each sample's `NEIGHBOURS` nearest neighbours that stay; None without embeddings.
        changed: samples whose prediction changed.
    """

    dense: dict[str, float]
    pruned: dict[str, float]
    divergence: float
    neighbours: float | None = None
    changed: ChangedReport | None = None


# A model's metrics and its outputs per batch, for each evaluation set.
Scored = Sequence[tuple[dict[str, float], list[Tensor]]]


def score(scorers: Sequence[Scorer], model: PreTrainedModel, name: str) -> Scored:
    """Scores a model on every evaluation set; `name` is for display."""
    return [scorer(model, f"evaluate {name}") for scorer in scorers]


def compare(scorers: Sequence[Scorer], dense: Scored, pruned: Scored, pruned_scorers: Sequence[Scorer] = ()) -> Scores:
    """Compares two models: scores on all sets; divergence and changed predictions on the first set.

    Scores of the first set have plain names; those of further sets are prefixed with the set's name, as in
    "validation_mismatched_accuracy".

    Args:
        scorers: scorers of the evaluation sets.
        dense: results of the dense model.
        pruned: results of the pruned model.
        pruned_scorers: scorers with the pruned model's tokenizer, if it differs.
    """
    totals: list[dict[str, float]] = []
    for scored in (dense, pruned):
        named = enumerate(zip(scorers, scored, strict=True))
        totals.append({f"{s.name}_{k}" if n else k: v for n, (s, (own, _)) in named for k, v in own.items()})
    own, first = scorers[0], (pruned_scorers or scorers)[0]
    outputs, references = pruned[0][1], dense[0][1]
    return Scores(
        totals[0],
        totals[1],
        first.divergence(outputs, references),
        first.neighbours(outputs, references),
        find_changed(own.task, own.rows, own.names, own.sample_outputs(references), first.sample_outputs(outputs)),
    )


def neighbour_overlap(embeddings: Tensor, references: Tensor, count: int = NEIGHBOURS) -> float | None:
    """Returns the share of each sample's nearest neighbours in the references that stay nearest in the embeddings.

    Args:
        embeddings: [samples, n].
        references: [samples, m].
        count: number of neighbours, by cosine similarity.

    Returns:
        The mean over samples; None if there are too few samples.
    """
    samples = len(embeddings)
    if samples <= 2 * count:
        return None
    nearest = []
    for matrix in (embeddings, references):
        unit = F.normalize(matrix.double(), dim=-1)
        chunks = []
        for start in range(0, samples, 1024):
            cosines = unit[start : start + 1024] @ unit.T
            cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -torch.inf
            chunks.append(cosines.topk(count).indices)
        nearest.append(torch.cat(chunks))
    shared = (nearest[0].unsqueeze(2) == nearest[1].unsqueeze(1)).sum((1, 2))
    return float(shared.double().mean() / count)
