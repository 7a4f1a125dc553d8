"""Scores models on evaluation sets and compares them with the dense model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import Features, make_batches
from trimformer.data.model_inputs import encode_rows
from trimformer.data.outputs import Problem, divergence, find_problem, max_batch_tokens
from trimformer.data.rows import Rows
from trimformer.data.tasks import EmbeddingTask, ScoredByQuery, Task
from trimformer.data.tasks.sample_labels import label_names
from trimformer.data.token_ids import check_padding_token, check_token_ids
from trimformer.evaluation.changed_predictions import ChangedReport, SampleOutputs, find_changed
from trimformer.evaluation.clusters import row_clusters
from trimformer.evaluation.model_outputs import Outputs, RerunOutputs, model_outputs, unbatch
from trimformer.evaluation.neighbours import neighbour_overlap
from trimformer.models.layer_calls import LABEL_KEYS, Batch


def divergences(outputs: Outputs, references: Outputs, batches: Sequence[Batch], problem: Problem) -> Tensor:
    """Returns each sample's divergence from the dense model, [samples] in float64; see `divergence`."""
    per_batch = [
        divergence(output.float(), reference.float(), batch, problem).double()
        for output, reference, batch in zip(outputs, references, batches, strict=True)
    ]
    return torch.stack(unbatch(per_batch, batches)).double()


def rows_of_features(features: Sequence[Features], num_rows: int) -> list[int]:
    """Returns the index of each feature's row; a row may have several windows of a long text, or several texts."""
    return [feature.get("example", i % num_rows) for i, feature in enumerate(features)]


FEWEST_TO_JUDGE = 30  # rows from which a score no better than guessing is no accident

# Ends the sentences on a model that is no better than guessing.
DO_LABELS_FIT = "do the labels mean what the model's outputs mean (order of classes, direction of scores)?"


class Scorer:
    """One evaluation set, encoded once and scored for any number of models.

    Args:
        name: name of the set, for display.
        rows: rows of the set.
        task: task of the rows.
        model: the dense model, for its configuration and device; where no relevant passage is known, those that it
            ranks first count.
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
        self.name, self.rows, self.task, self.processor, self.batch_size = name, rows, task, processor, batch_size
        self.features = encode_rows(task, rows, model, processor)
        self.batches = make_batches(self.features, processor, batch_size, max_tokens=max_batch_tokens(model))
        self.names = label_names(model.config)
        self._check_batches(model)
        self._problem = find_problem(model)
        if isinstance(task, ScoredByQuery) and task.needs_dense_outputs:
            outputs = model_outputs(model, self.batches, name, may_rerun=False, desc="dense model's order")
            self.task = task.with_first_passages(unbatch(outputs, self.batches), rows)

    def _check_batches(self, model: PreTrainedModel) -> None:
        """Checks that the model can read the batches."""
        check_token_ids(model, self.batches)
        check_padding_token(model, self.processor, self.batches)

    def __call__(self, model: PreTrainedModel, desc: str = "evaluate") -> tuple[dict[str, float], Outputs]:
        """Returns the model's metrics and its outputs per batch; see `model_outputs`."""
        is_labelled = any(key in self.features[0] for key in LABEL_KEYS)
        may_rerun = self._problem == "tokens" and not is_labelled
        outputs = model_outputs(model, self.batches, self.name, may_rerun=may_rerun, desc=desc)
        if isinstance(outputs, RerunOutputs):
            return {}, outputs
        return self.task.score(unbatch(outputs, self.batches), self.features, self.rows), outputs

    def score_some(self, outputs: Sequence[Tensor], rows: Sequence[int]) -> dict[str, float]:
        """Returns the metrics over some of the rows.

        Args:
            outputs: outputs of all samples; see `unbatch`.
            rows: indices of the rows.
        """
        if isinstance(self.task, ScoredByQuery):
            chosen = list(rows)
            return {k: float(np.nanmean(v[chosen])) for k, v in self.task.row_scores(outputs, self.rows).items()}
        pairs = [(new, i) for new, row in enumerate(rows) for i in self._parts[row]]
        if self._problem == "embedding":  # the features of embeddings are ordered column by column
            pairs.sort(key=lambda pair: pair[1] // len(self.rows))
        features = [
            {**self.features[i], "example": new} if "example" in self.features[i] else self.features[i]
            for new, i in pairs
        ]
        return self.task.score([outputs[i] for _, i in pairs], features, [self.rows[row] for row in rows])

    def metric_of_rows(self, outputs: Sequence[Tensor], metric: str) -> Callable[[Sequence[int]], float]:
        """Returns a function that computes a metric over some of the rows; see `score_some`.

        A query that is left out leaves its passage in the collection.
        """
        if isinstance(self.task, ScoredByQuery):
            values = self.task.row_scores(outputs, self.rows)[metric]
            return lambda rows: float(np.nanmean(values[list(rows)]))
        return lambda rows: self.score_some(outputs, rows)[metric]

    @cached_property
    def scored_rows(self) -> Sequence[int]:
        """Indices of the rows that count in the scores; passages without a query only make the search harder."""
        return self.task.scored_rows(self.rows) if isinstance(self.task, ScoredByQuery) else range(len(self.rows))

    @property
    def is_labelled(self) -> bool:
        """Whether the task has a metric and the samples have labels; those of embeddings are in the rows."""
        if isinstance(self.task, ScoredByQuery):
            return bool(self.scored_rows)
        has_labels = any(key in self.features[0] for key in LABEL_KEYS) or self._problem == "embedding"
        return self.task.metric is not None and has_labels

    @property
    def guessed_score(self) -> float | None:
        """The main score of guessing: 0 for a correlation, an equal share for the accuracy of classes; else None.

        It is None for fewer than `FEWEST_TO_JUDGE` rows, and for labels that are all the same.
        """
        if len(self.rows) < FEWEST_TO_JUDGE or not self.is_labelled:
            return None
        if isinstance(self.task, EmbeddingTask):
            labels = {float(row[column]) for row in self.rows for column in self.task.label_columns}
        else:
            labels = {float(sample["labels"]) for sample in self.features if np.ndim(sample.get("labels", ())) == 0}
        if len(labels) < 2:
            return None
        if self.task.metric in ("spearman", "pearson", "matthews"):
            return 0.0
        return 1 / max(len(labels), len(self.names)) if self.task.metric == "accuracy" else None

    def is_guessing(self, scores: Mapping[str, float]) -> bool:
        """Returns whether a model's main score is no better than that of guessing."""
        guessed = self.guessed_score
        return guessed is not None and scores.get(str(self.task.metric), 1.0) <= guessed

    @cached_property
    def clusters(self) -> list[int]:
        """Cluster of each row; see `row_clusters`."""
        return row_clusters(self.rows, self.task)

    @property
    def num_independent(self) -> int:
        """Number of scored rows, those of one cluster counted once."""
        return len({self.clusters[row] for row in self.scored_rows})

    @cached_property
    def feature_rows(self) -> list[int]:
        """Index of each feature's row; a row has one feature per window of a long text, or per text to embed."""
        return rows_of_features(self.features, len(self.rows))

    @property
    def divergence_rows(self) -> list[int]:
        """Index of the row of each value that `divergences` returns."""
        return self.feature_rows

    @cached_property
    def _parts(self) -> list[list[int]]:
        """Indices of each row's features."""
        parts: list[list[int]] = [[] for _ in self.rows]
        for i, row in enumerate(self.feature_rows):
            parts[row].append(i)
        return parts

    def sample_outputs(self, outputs: Outputs) -> SampleOutputs:
        """Returns a model's outputs, one per feature, with the features."""
        return SampleOutputs(unbatch(outputs, self.batches), self.features)

    def stacked_outputs(self, outputs: Outputs) -> Tensor:
        """Returns outputs of one size, such as embeddings, in the order of the rows, [samples, n]."""
        return torch.stack(unbatch(outputs, self.batches))

    def neighbours(self, outputs: Outputs, references: Outputs) -> float | None:
        """Returns the share of nearest neighbours that stay, or None without embeddings; see `neighbour_overlap`."""
        return self._neighbours(outputs, references, self)

    def _neighbours(self, outputs: Outputs, references: Outputs, dense: "Scorer") -> float | None:
        """Like `neighbours`, for references in the batches of another scorer."""
        if self._problem != "embedding":
            return None
        texts = dense.distinct_samples
        return neighbour_overlap(self.stacked_outputs(outputs)[texts], dense.stacked_outputs(references)[texts])

    @property
    def distinct_samples(self) -> list[int]:
        """Indices of samples without duplicate texts, which would be nearest neighbours under any model."""
        first: dict[bytes, int] = {}
        for i, sample in enumerate(self.features):
            first.setdefault(np.asarray(sample.get("input_ids", -i)).tobytes(), i)
        return list(first.values())

    def divergences(self, outputs: Outputs, references: Outputs) -> Tensor:
        """Returns each sample's divergence between two models' outputs, [samples]; see `divergences`."""
        return divergences(outputs, references, self.batches, self._problem)

    def divergence(self, outputs: Outputs, references: Outputs) -> float:
        """Returns the mean divergence between two models' outputs."""
        return float(self.divergences(outputs, references).mean())


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
Scored = Sequence[tuple[dict[str, float], Outputs]]


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
    scores: list[dict[str, float]] = []
    for scored in (dense, pruned):
        named = enumerate(zip(scorers, scored, strict=True))
        scores.append({f"{s.name}_{k}" if n else k: v for n, (s, (metrics, _)) in named for k, v in metrics.items()})
    dense_scorer, pruned_scorer = scorers[0], (pruned_scorers or scorers)[0]
    outputs, references = pruned[0][1], dense[0][1]
    changed = None
    if not any(isinstance(o, RerunOutputs) for o in (outputs, references)):
        pair = dense_scorer.sample_outputs(references), pruned_scorer.sample_outputs(outputs)
        changed = find_changed(dense_scorer.task, dense_scorer.rows, dense_scorer.names, *pair)
    return Scores(
        scores[0],
        scores[1],
        pruned_scorer.divergence(outputs, references),
        pruned_scorer.neighbours(outputs, references),
        changed,
    )
