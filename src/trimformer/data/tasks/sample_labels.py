"""Labels of whole samples (classes or a number) and their scores, shared by text, image and audio tasks."""

import ast
import math
import re
from collections.abc import Mapping, Sequence
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
from trimformer.data.tasks.base import Task, check_columns, class_id, guess_column
from trimformer.errors import TrimformerError

LABEL_COLUMNS = (
    "label", "labels", "score", "target", "class", "category", "sentiment", "answer", "intent", "emotion", "emotions",
    "topic", "stars", "rating", "genre", "tag", "language", "similarity", "label_text", "fine_label", "y",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelTask(Task):
    """Base class of tasks with at most one label (or list of labels) per sample.

    Attributes:
        label_column: column of labels; None: the rows are unlabelled or use `indicator_columns`.
        indicator_columns: one column of zeros and ones per label, in the order of the model's labels.
        metrics: reported metrics; the first is the main one.
    """

    label_column: str | None = "label"
    indicator_columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)

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
        return [
            read_label(row[self.label_column], self.problem, config, f"row {number}") for number, row in numbered(rows)
        ]

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


def check_labelled(task: Task, sets: Sequence[Rows]) -> None:
    """Checks that either all rows of all splits have a label or none has, before samples are drawn from them.

    Raises:
        TrimformerError: some rows have a label and some have none.
    """
    column = task.label_column if isinstance(task, LabelTask) else None
    if column is None:
        return
    labelled = [rows for rows in sets if any(column in row for row in rows)]
    for rows in labelled:
        check_columns(rows, [column])
    if 0 < len(labelled) < len(sets):
        raise TrimformerError(f"some splits of the data have the column '{column}', others do not; label all or none")


def label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """Returns the model's labels, ordered by id."""
    return tuple(str(name) for _, name in sorted((int(i), name) for i, name in (config.id2label or {}).items()))


def read_label(value: Any, problem: Problem, config: PreTrainedConfig, where: str) -> int | float | list[float]:
    """Converts a label to the form that the model's loss expects: a class id, a number, or one 0 or 1 per class.

    Args:
        value: a class id or name, or a number. For a multi-label problem: a list of ids or names, one 0 or 1 per
            class, or a string of labels separated by commas, semicolons, bars or spaces.
        problem: kind of model output.
        config: the model's configuration.
        where: the row, for error messages.

    Raises:
        TrimformerError: the value has another form, or names an unknown class.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if problem == "single_label":
        if isinstance(value, list):
            raise TrimformerError(f"{where} has a list of labels, but this model predicts one label per sample")
        return class_id(value, config, where)
    if problem == "regression":
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not math.isfinite(number):
            raise TrimformerError(f"label '{value}' in {where} is not a finite number; this model is a regressor")
        return number
    names = _split_labels(value, config.label2id or {}) if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise TrimformerError(
            f"label '{value}' in {where} is not a list; this model predicts several labels per sample"
        )
    num_labels = config.num_labels or 0
    if len(names) == num_labels and all(v in (0, 1) for v in names):
        return [float(v) for v in names]
    ids = {class_id(name, config, where) for name in names}
    return [float(i in ids) for i in range(num_labels)]


def _split_labels(text: str, label_ids: Mapping[str, Any]) -> Any:
    """Splits a string into labels; a string that is itself one of the model's labels is not split."""
    if text.strip() in label_ids:
        return [text.strip()]
    if text.lstrip().startswith("["):  # pandas writes a list to CSV this way
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError):
            return text
    parts = re.split("[,;|]", text)
    return [part.strip() for part in parts if part.strip()] if len(parts) > 1 else text.split()


def _read_indicator(value: Any, column: str, number: int) -> float:
    try:
        indicator = float(value)
    except (TypeError, ValueError, OverflowError):
        indicator = math.nan
    if indicator not in (0, 1):
        raise TrimformerError(f"'{column}' in row {number} is '{value}'; a column named after a label must hold 0 or 1")
    return indicator
