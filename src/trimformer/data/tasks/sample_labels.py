"""Labels of whole samples (classes or a number) and their scores, shared by text, image and audio tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.metrics import METRICS, confidence_interval
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import Task, check_columns, guess_column
from trimformer.data.tasks.label_reader import LabelReader
from trimformer.errors import TrimformerError, quoted

LABEL_COLUMNS = (
    "label", "labels", "score", "target", "class", "category", "sentiment", "answer", "intent", "emotion", "emotions",
    "topic", "stars", "rating", "genre", "tag", "language", "similarity", "label_text", "fine_label", "y",
    "relevance", "relevance_score", "relevance_label", "relevant", "is_relevant", "is_selected", "similarity_score",
    "gold_label", "is_duplicate",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelTask(Task):
    """Base class of tasks with at most one label (or list of labels) per sample.

    Attributes:
        label_column: column of labels; None: the rows are unlabelled or use `indicator_columns`.
        indicator_columns: one column of zeros and ones per label, in the order of the model's labels.
        metrics: reported metrics; the first is the main one.
        class_names: names of a known task's classes, ordered by the numbers that its public data gives them.
    """

    label_column: str | None = "label"
    indicator_columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    class_names: tuple[str, ...] = ()

    def read_labels(self, rows: Rows, config: PreTrainedConfig) -> list[Any] | None:
        """Returns one label per row, or None if the rows are unlabelled.

        Raises:
            TrimformerError: only some rows have a label, or a label is unknown to the model.
        """
        if self.indicator_columns:
            check_columns(rows, self.indicator_columns)
            return [
                [_read_indicator(row[name], name, number) for name in self.indicator_columns]
                for number, row in numbered(rows)
            ]
        # All rows may be unlabelled, but not some of them.
        if self.label_column is None or not any(self.label_column in row for row in rows):
            return None
        check_columns(rows, [self.label_column])
        reader = LabelReader(self.problem, config, rows, self.label_column, self.reading)
        return [reader.read(row[self.label_column], f"row {number}") for number, row in numbered(rows)]

    @property
    def label_columns(self) -> tuple[str, ...]:
        """See `Task.label_columns`."""
        return self.indicator_columns or ((self.label_column,) if self.label_column else ())

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """See `Task.score`; computes the task's `metrics`."""
        if not features or "labels" not in features[0]:
            return {}
        logits = torch.stack(list(outputs)).float().numpy()  # [samples, labels]
        labels = np.array([feature["labels"] for feature in features])
        predictions = {
            "single_label": lambda: logits.argmax(-1),
            "multi_label": lambda: (logits > 0).astype(int),
            "regression": lambda: logits[:, 0],
        }[self.problem]()
        scores = {name: METRICS[name](predictions, labels) for name in self.metrics}
        if "accuracy" in scores:
            scores["accuracy_ci95"] = confidence_interval(predictions == labels)
        return scores


def add_labels(features: Sequence[dict[str, Any]], labels: Sequence[Any] | None) -> Sequence[Features]:
    """Adds the labels, if any, to the features in place and returns the features."""
    if labels is not None:
        for feature, label in zip(features, labels, strict=True):
            feature["labels"] = label
    return features


def label_fields(
    problem: Problem, rows: Rows, names: Sequence[str], column: str | None = None, input_columns: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the fields of a `LabelTask` that define where the labels are and how outputs are scored.

    Args:
        problem: kind of model output; only classification and regression have labels per sample.
        rows: the user's examples.
        names: the model's labels, ordered by id.
        column: column of labels; None: guessed from the usual names, or for multi-label problems from columns named
            after the labels.
        input_columns: columns that hold the inputs and therefore no labels.
    """
    metrics: tuple[str, ...] = {
        "single_label": ("accuracy", "f1" if len(names) == 2 else "macro_f1"),
        "multi_label": ("micro_f1", "macro_f1"),
        "regression": ("pearson", "spearman"),
    }.get(problem, ())
    indicator_columns: tuple[str, ...] = ()
    if not metrics:
        column = None
    elif column is None:
        column = guess_column(LABEL_COLUMNS, rows[0], input_columns)
        if problem == "multi_label" and column is None:
            columns = [guess_column([name.strip().lower()], rows[0], input_columns) for name in names]
            indicator_columns = tuple(name for name in columns if name) if all(columns) else ()
    return {
        "problem": problem,
        "label_column": column,
        "indicator_columns": indicator_columns,
        "metrics": metrics,
        "metric": metrics[0] if metrics and (column or indicator_columns) else None,
    }


def label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """Returns the model's labels, ordered by id."""
    return tuple(str(name) for _, name in sorted((int(i), name) for i, name in (config.id2label or {}).items()))


def _read_indicator(value: Any, column: str, number: int) -> float:
    truth = {"true": 1.0, "false": 0.0}.get(value.strip().lower()) if isinstance(value, str) else None
    try:
        indicator = float(value) if truth is None else truth
    except (TypeError, ValueError, OverflowError):
        indicator = math.nan
    if indicator not in (0, 1):
        raise TrimformerError(
            f"{quoted(column)} in row {number} is {quoted(str(value))}; a column named after a label must hold 0 or 1"
        )
    return indicator
