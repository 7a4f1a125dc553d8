"""Retrieval tasks: queries and passages are embedded apart, and each query should find its passage."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.metrics import confidence_interval
from trimformer.data.rows import Rows, numbered
from trimformer.data.sentence_settings import QUERY_COLUMNS
from trimformer.data.tasks.base import Task, check_columns
from trimformer.data.tasks.embedding import EmbeddingTask
from trimformer.data.tasks.retrieval_metrics import DEPTH, first_passages, query_scores
from trimformer.data.tasks.text import PASSAGE_COLUMNS, encode_texts
from trimformer.data.tasks.text_values import as_text, is_blank
from trimformer.errors import TrimformerError, quoted

logger = logging.getLogger(__name__)

METRIC = f"mrr@{DEPTH}"
OF_DENSE = "dense_top_"  # begins the names of scores whose right passages are the dense model's first


@dataclass(frozen=True, kw_only=True)
class RetrievalTask(EmbeddingTask):
    """A query and its passage per row; a row without a query, or without a passage, adds the text that it has.

    Every distinct text is encoded once. The passages of a set are those of all its rows. If no row has both a query and
    a passage, the passage that the dense model finds first counts as right.

    Attributes:
        is_symmetric: every text is a query, and all other texts are its passages.
        first: by query, the passages that the dense model finds first, several if they are equally similar; None: not
            known, or the rows have pairs.
    """

    metric: str | None = METRIC
    is_symmetric: bool = False
    first: Mapping[str, Sequence[str]] | None = None

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`; returns one feature per distinct text, column by column, with its first row."""
        for column in self.text_columns:
            if self.is_symmetric or all(_is_missing(row.get(column)) for row in rows):
                check_columns(rows, [column])
        texts = self._texts(rows)
        if not texts:
            raise TrimformerError(f"columns {', '.join(map(quoted, self.text_columns))} of the data hold no text")
        encoded = encode_texts([list(texts)], self, processor, config)
        return [{**feature, "example": row} for feature, row in zip(encoded, texts.values(), strict=True)]

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """See `Task.is_blank`."""
        return all(_is_missing(row.get(column)) for column in self.text_columns)

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """Means of the scores of all queries, with half their 95 % intervals; empty if no passage is known as right."""
        scores: dict[str, float] = {}
        for name, values in self.row_scores(outputs, rows).items():
            scored = values[~np.isnan(values)]
            scores |= {name: float(scored.mean()), f"{name}_ci95": confidence_interval(scored)}
        return scores

    def row_scores(self, outputs: Sequence[Tensor], rows: Rows) -> dict[str, NDArray[np.float64]]:
        """Returns each row's scores, [rows]; NaN in rows without a query, or whose query occurs in an earlier row."""
        answers = self._answers(rows)
        if not answers:
            return {}
        texts = self._texts(rows)
        index = {text: i for i, text in enumerate(texts)}
        passages = self._passages(rows, index)
        relevant = [[index[passage] for passage in found] for found in answers.values()]
        queries = [index[query] for query in answers]
        embeddings, excludes_self = torch.stack(list(outputs)), self.is_symmetric
        scores = query_scores(embeddings, queries, passages, relevant, self.similarity, excludes_self=excludes_self)
        return {f"{self._prefix}{name}": self._by_row(list(answers), values, rows) for name, values in scores.items()}

    def scored_rows(self, rows: Rows) -> list[int]:
        """Returns the indices of the rows whose query is scored."""
        answers = list(self._answers(rows))
        return np.flatnonzero(~np.isnan(self._by_row(answers, np.zeros(len(answers)), rows))).tolist()

    def has_answers(self, rows: Rows) -> bool:
        """Returns whether a row has both a query and a passage, or the dense model's first passages are known."""
        return self.first is not None or any(
            not any(_is_missing(row.get(column)) for column in self.text_columns[:2]) for row in rows
        )

    @property
    def needs_dense_outputs(self) -> bool:
        """Whether the right passages are the dense model's first ones, which are not known yet."""
        return self.first is None and self.metric == f"{OF_DENSE}{METRIC}"

    def with_first_passages(self, outputs: Sequence[Tensor], rows: Rows) -> "RetrievalTask":
        """Returns the task whose right passages are those that the dense model finds first.

        Args:
            outputs: the dense model's embeddings, one per feature of `encode`.
            rows: the rows.
        """
        texts = list(self._texts(rows))
        index = {text: i for i, text in enumerate(texts)}
        passages, queries = self._passages(rows, index), list(dict.fromkeys(self._queries(rows)))
        if len(passages) < 2:
            raise TrimformerError(f"{len(passages)} different passages are too few to search in; give at least 2")
        places, embeddings = [index[query] for query in queries], torch.stack(list(outputs))
        first = first_passages(embeddings, places, passages, self.similarity, excludes_self=self.is_symmetric)
        found = zip(queries, first, strict=True)
        return replace(self, first={query: [texts[i] for i in indices] for query, indices in found})

    @property
    def _prefix(self) -> str:
        return str(self.metric).removesuffix(METRIC)

    def _column_texts(self, rows: Rows) -> list[list[str]]:
        """Texts with prompts by column, then row; missing ones are empty."""
        prompts = [*self.prompts, *[""] * len(self.text_columns)]
        columns = []
        for column, prompt in zip(self.text_columns, prompts, strict=False):
            name = f"column {quoted(column)}"
            values = ((row.get(column), f"{name} in row {number}") for number, row in numbered(rows))
            columns.append(["" if _is_missing(value) else prompt + as_text(value, where) for value, where in values])
        return columns

    def _texts(self, rows: Rows) -> dict[str, int]:
        """Returns the first row of each distinct text, column by column."""
        texts: dict[str, int] = {}
        for column in self._column_texts(rows):
            for row, text in enumerate(column):
                if text:
                    texts.setdefault(text, row)
        return texts

    def _queries(self, rows: Rows) -> Iterator[str]:
        columns = self._column_texts(rows)
        for column in columns if self.is_symmetric else columns[:1]:
            yield from filter(None, column)

    def _passages(self, rows: Rows, index: Mapping[str, int]) -> list[int]:
        """Indices of the distinct passages among the texts."""
        columns = self._column_texts(rows)[0 if self.is_symmetric else 1 :]
        return list(dict.fromkeys(index[text] for column in columns for text in column if text))

    def _answers(self, rows: Rows) -> dict[str, list[str]]:
        """Right passages by query, in the order of the rows."""
        if self.first is not None:
            return {query: list(self.first[query]) for query in self._queries(rows)}
        answers: dict[str, list[str]] = {}
        if self.metric == METRIC:
            for query, passage in zip(*self._column_texts(rows)[:2], strict=True):
                if query and passage and passage not in answers.get(query, ()):
                    answers.setdefault(query, []).append(passage)
        return answers

    def _by_row(self, queries: Sequence[str], values: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
        """Puts the value of each query into the first row that has it; several queries of a row give their mean."""
        first_row: dict[str, int] = {}
        columns = self._column_texts(rows)
        for column in columns if self.is_symmetric else columns[:1]:
            for row, text in enumerate(column):
                first_row.setdefault(text, row)
        places = [first_row[query] for query in queries]
        sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
        np.add.at(sums, places, values)
        np.add.at(counts, places, 1)
        return np.divide(sums, counts, out=np.full(len(rows), np.nan), where=counts > 0)


def retrieval_task(task: EmbeddingTask) -> EmbeddingTask:
    """Returns a retrieval task if the columns are queries and passages, else the task itself."""
    if not is_query_and_passage(task.text_columns) or task.score_column is not None:
        return task
    return _as_retrieval(task, metric=METRIC)


def is_query_and_passage(columns: Sequence[str]) -> bool:
    """Returns whether the first columns are named like a query and its passage."""
    names = [column.strip().lower() for column in columns]
    return len(names) > 1 and names[0] in QUERY_COLUMNS and names[1] in PASSAGE_COLUMNS


def settle_answers(task: Task, sets: Sequence[Rows], *, needs_score: bool) -> Task:
    """Decides from all rows which passages count as right.

    Args:
        task: any task.
        sets: all sets of rows.
        needs_score: whether embedders without a score need one: every text should then find the text that the dense
            model finds first.

    Returns:
        A retrieval task whose metric says whether the right passages are given or the dense model's first; other tasks
        as they are.
    """
    if isinstance(task, RetrievalTask):
        if any(task.has_answers(rows) for rows in sets):
            return task
        logger.info("no row has both a query and a passage: the passage that the dense model finds first is right")
        return replace(task, metric=f"{OF_DENSE}{METRIC}")
    if needs_score and isinstance(task, EmbeddingTask) and task.metric is None:
        logger.info("the rows have no scores: the text that the dense model finds first is right")
        return _as_retrieval(task, metric=f"{OF_DENSE}{METRIC}", is_symmetric=True)
    return task


def _as_retrieval(task: EmbeddingTask, **changes: Any) -> RetrievalTask:
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    return RetrievalTask(**{**values, "name": "retrieval", **changes})


def _is_missing(value: Any) -> bool:
    return value is None or is_blank(value)
