"""What tasks with a label per sample share, whatever the sample is: which labels, and their scores."""

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
    """Samples with at most one label (or list of labels) each.

    Attributes:
        label_column: None: the rows are unlabelled, or their labels are in columns of their own.
        one_hot: one column of zeros and ones per label, in the order of the model's.
        metrics: what is reported; the first is the main one.
    """

    label_column: str | None = "label"
    one_hot: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)

    def labels(self, rows: Rows, config: PreTrainedConfig) -> list[Any] | None:
        """A label per row; None where the rows have none.

        Raises:
            TrimformerError: some rows have a label and some have none, or it is not one of the model's.
        """
        if self.one_hot:
            check_columns(rows, self.one_hot)
            return [[_bit(row[name], name, number) for name in self.one_hot] for number, row in numbered(rows)]
        # Unlabelled rows are welcome, but not a label here and there.
        if self.label_column is None or not any(self.label_column in row for row in rows):
            return None
        check_columns(rows, [self.label_column])
        return [
            read_label(row[self.label_column], self.problem, config, f"row {number}") for number, row in numbered(rows)
        ]

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
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


def with_labels(features: Sequence[dict[str, Any]], labels: Sequence[Any] | None) -> Sequence[Features]:
    """The features with their labels, where there are any."""
    if labels is not None:
        for feature, label in zip(features, labels, strict=True):
            feature["labels"] = label
    return features


def label_fields(
    problem: Problem, rows: Rows, names: Sequence[str], column: str | None = None, taken: Sequence[str] = ()
) -> dict[str, Any]:
    """The arguments of a `LabelTask` that say where the labels are, and how outputs are scored.

    Args:
        problem: kind of the model's output; only classes and numbers have labels here.
        rows: the user's examples.
        names: the model's labels by id.
        column: of the labels; None: guessed from the usual names, or for several labels from `names` as columns.
        taken: columns that hold something else.
    """
    metrics: tuple[str, ...] = {
        "single_label": ("accuracy", "f1" if len(names) == 2 else "macro_f1"),
        "multi_label": ("micro_f1", "macro_f1"),
        "regression": ("pearson", "spearman"),
    }.get(problem, ())
    one_hot: tuple[str, ...] = ()
    if not metrics:
        column = None
    elif column is None:
        column = guess_column(LABEL_COLUMNS, rows[0], taken)
        if problem == "multi_label" and column is None:
            found = [guess_column([name.strip().lower()], rows[0], taken) for name in names]
            one_hot = tuple(name for name in found if name) if all(found) else ()
    return {
        "problem": problem,
        "label_column": column,
        "one_hot": one_hot,
        "metrics": metrics,
        "metric": metrics[0] if metrics and (column or one_hot) else None,
    }


def check_labelled(task: Task, sets: Sequence[Rows]) -> None:
    """Checks all rows, whichever are drawn.

    Raises:
        TrimformerError: some rows have a label and some have none.
    """
    column = task.label_column if isinstance(task, LabelTask) else None
    if column is None:
        return
    with_label = [any(column in row for row in rows) for rows in sets]
    for rows, labelled in zip(sets, with_label, strict=True):
        if labelled:
            check_columns(rows, [column])
    if any(with_label) and not all(with_label):
        raise TrimformerError(f"some splits of the data have the column '{column}', others do not; label all or none")


def label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """The model's labels by id."""
    return tuple(str(name) for _, name in sorted((int(i), name) for i, name in (config.id2label or {}).items()))


def read_label(value: Any, problem: Problem, config: PreTrainedConfig, where: str) -> int | float | list[float]:
    """A label as the model's loss takes it: a class's id, a number, or zeros and ones for all classes.

    Several labels are a list of ids or of names, of zeros and ones, or a text that joins them with commas,
    semicolons, bars or spaces.

    Raises:
        TrimformerError: it is not one of the model's.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if problem == "single_label":
        if isinstance(value, list):
            raise TrimformerError(f"{where} has a list of labels; this model gives one label")
        return class_id(value, config, where)
    if problem == "regression":
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not math.isfinite(number):
            raise TrimformerError(f"label '{value}' in {where} is not a number; this model is a regressor")
        return number
    names = _split(value, config.label2id or {}) if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise TrimformerError(f"label '{value}' in {where} is not a list; this model gives several labels")
    num_labels = config.num_labels or 0
    if len(names) == num_labels and all(v in (0, 1) for v in names):
        return [float(v) for v in names]
    chosen = {class_id(name, config, where) for name in names}
    return [float(i in chosen) for i in range(num_labels)]


def _split(text: str, known: Mapping[str, Any]) -> Any:
    """The labels that a text lists; a text that is a label as a whole is that one."""
    if text.strip() in known:
        return [text.strip()]
    if text.lstrip().startswith("["):  # how pandas writes a list to CSV
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError):
            return text
    parts = re.split("[,;|]", text)
    return [part.strip() for part in parts if part.strip()] if len(parts) > 1 else text.split()


def _bit(value: Any, name: str, number: int) -> float:
    try:
        bit = float(value)
    except (TypeError, ValueError, OverflowError):
        bit = math.nan
    if bit not in (0, 1):
        raise TrimformerError(f"'{name}' in row {number} is '{value}'; columns named after labels hold 0 or 1")
    return bit
