"""Single texts and pairs: classification, regression, multi-label, and unlabelled text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from trimformer.batches.calibration import Features
from trimformer.batches.data import Rows, numbered
from trimformer.batches.metrics import METRICS, confidence_interval
from trimformer.batches.tasks.base import Task, check_columns, class_id
from trimformer.errors import TrimformerError

TEXT_COLUMNS = ("text", "sentence", "review", "content", "document", "body", "title", "query", "question")
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
)
LABEL_COLUMNS = ("label", "labels", "score", "target", "class", "category", "sentiment", "answer")


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """One text or a pair per row, and at most one label (or list of labels).

    Attributes:
        text_columns: one column, or two for pairs.
        label_column: None: the rows are unlabelled.
        metrics: what is reported; the first is the main one.
    """

    text_columns: tuple[str, ...] = ("text",)
    label_column: str | None = "label"
    metrics: tuple[str, ...] = ("accuracy",)

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> Sequence[Features]:
        # Unlabelled rows are welcome, but not a label here and there.
        label_column = self.label_column if any(self.label_column in row for row in rows) else None
        check_columns(rows, (*self.text_columns, *([label_column] if label_column else [])))
        texts = [[str(row[column]) for row in rows] for column in self.text_columns]
        encoded = tokenizer(*texts, truncation=True, max_length=self.length_limit(tokenizer, config))
        features = [{key: encoded[key][i] for key in encoded} for i in range(len(rows))]
        if label_column is not None:
            for feature, (number, row) in zip(features, numbered(rows), strict=True):
                feature["labels"] = self._label(row[label_column], config, f"row {number}")
        return features

    def _label(self, value: Any, config: PreTrainedConfig, where: str) -> int | float | list[float]:
        if self.problem == "single_label":
            if isinstance(value, list):
                raise TrimformerError(f"{where} has a list of labels; this model gives one label")
            return class_id(value, config, where)
        if self.problem == "regression":
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = float("nan")
            if not math.isfinite(number):
                raise TrimformerError(f"label '{value}' in {where} is not a number; this model is a regressor")
            return number
        names, num_labels = value.split() if isinstance(value, str) else value, config.num_labels or 0
        if not isinstance(names, list):
            raise TrimformerError(f"label '{value}' in {where} is not a list; this model gives several labels")
        if len(names) == num_labels and all(v in (0, 1) for v in names):
            return [float(v) for v in names]
        chosen = {class_id(name, config, where) for name in names}
        return [float(i in chosen) for i in range(num_labels)]

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


def guess_text_columns(columns: Sequence[str]) -> tuple[str, ...] | None:
    """The usual names of a pair of text columns, else of one, that are among `columns`."""
    for pair in PAIR_COLUMNS:
        if all(column in columns for column in pair):
            return pair
    return next(((name,) for name in TEXT_COLUMNS if name in columns), None)


def text_task(
    problem: Any,
    rows: Rows,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    num_labels: int | None = 2,
    max_length: int = 128,
) -> TextTask:
    """A task for the user's own rows; columns not named are guessed from the usual names.

    Raises:
        TrimformerError: no text column is named and none can be guessed.
    """
    if not len(rows):
        raise TrimformerError("the data has no rows")
    columns = list(rows[0])
    texts = tuple(text_columns) if text_columns else guess_text_columns(columns)
    if texts is None:
        raise TrimformerError(f"no text column found among {', '.join(columns)}; name it with --text-column")
    if label_column is None:
        label_column = next((name for name in LABEL_COLUMNS if name in columns and name not in texts), None)
    metrics = {
        "single_label": ("accuracy", "f1" if num_labels == 2 else "macro_f1"),
        "multi_label": ("micro_f1", "macro_f1"),
        "regression": ("pearson", "spearman"),
    }.get(problem, ())
    if problem == "embedding":
        label_column = None
    return TextTask(
        name="text" if len(texts) == 1 else "pair",
        problem=problem,
        text_columns=texts,
        label_column=label_column,
        metrics=metrics,
        metric=metrics[0] if metrics and label_column else None,
        max_length=max_length,
    )
