"""Embedding tasks: every text is embedded by itself; two text columns are two texts, never one pair."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.metrics import METRICS
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import Task, check_columns, guess_column, missing_column
from trimformer.data.tasks.sample_labels import LABEL_COLUMNS
from trimformer.data.tasks.text import TEXT_COLUMNS, encode_texts
from trimformer.data.tasks.text_values import column_texts, is_blank
from trimformer.errors import TrimformerError

# Usual names of columns whose texts belong together, in the order in which they are tried.
TEXT_GROUPS = (
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("anchor", "positive", "negative"),
    ("anchor", "positive"),
    ("query", "positive", "negative"),
    ("query", "positive"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "answer"),
    ("question", "answer"),
    ("premise", "hypothesis"),
)


@dataclass(frozen=True, kw_only=True)
class EmbeddingTask(Task):
    """One or several texts per row, each encoded as a separate sample.

    Attributes:
        text_columns: columns of texts.
        score_column: similarity of the two texts of a row, on any scale; None: the rows have no similarity.
    """

    problem: Problem = "embedding"
    text_columns: tuple[str, ...] = ("text",)
    score_column: str | None = None

    auto_class: ClassVar[str] = "AutoModel"

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`; returns one feature per text, column by column."""
        check_columns(rows, (*self.text_columns, *([self.score_column] if self.score_column else [])))
        if self.score_column:
            for number, row in numbered(rows):
                if not _is_number(value := row[self.score_column]):
                    raise TrimformerError(
                        f"'{value}' in column '{self.score_column}' of row {number} is not a finite number; the column "
                        "must hold the similarity of two texts"
                    )
        texts = [text for column in self.text_columns for text in column_texts(rows, column)]
        return encode_texts([texts], self, processor, config)

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """See `Task.is_blank`."""
        return all(is_blank(row.get(column)) for column in self.text_columns)

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """Correlates the cosine similarity of each row's two embeddings with the score column."""
        if self.score_column is None or len(self.text_columns) != 2:
            return {}
        pairs = zip(outputs[: len(rows)], outputs[len(rows) :], strict=True)
        cosines = np.array([float(F.cosine_similarity(a.float(), b.float(), dim=0)) for a, b in pairs])
        similarities = np.array([float(row[self.score_column]) for row in rows])
        return {name: METRICS[name](cosines, similarities) for name in ("spearman", "pearson")}


def embedding_task(
    rows: Rows, *, text_columns: Sequence[str] | None = None, score_column: str | None = None, max_length: int
) -> EmbeddingTask:
    """Creates a task for the user's own rows; columns that are not named are guessed from the usual names.

    Raises:
        TrimformerError: no text column is named and none can be guessed.
    """
    texts = tuple(text_columns or _guess_text_columns(rows[0]))
    if not texts:
        raise missing_column("text column", rows[0])
    if score_column is None and len(texts) == 2:
        column = guess_column(LABEL_COLUMNS, rows[0], texts)
        score_column = column if column is not None and _is_number(rows[0][column]) else None
    return EmbeddingTask(
        name="embedding",
        text_columns=texts,
        score_column=score_column,
        metric="spearman" if score_column and len(texts) == 2 else None,
        max_length=max_length,
    )


def _guess_text_columns(columns: Iterable[Any]) -> tuple[str, ...]:
    """Returns the columns with the usual names of a group of texts, else of a single text; empty if there are none."""
    columns = list(columns)
    for group in (*TEXT_GROUPS, *((name,) for name in TEXT_COLUMNS)):
        group_columns = [guess_column((name,), columns) for name in group]
        if all(group_columns):
            return tuple(name for name in group_columns if name)
    return ()


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
