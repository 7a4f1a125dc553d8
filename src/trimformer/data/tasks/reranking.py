"""Reranking tasks: a model scores candidate passages of a query as pairs, and their order counts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trimformer.data.batches import Features
from trimformer.data.metrics import confidence_interval
from trimformer.data.rows import Rows
from trimformer.data.tasks.base import Task
from trimformer.data.tasks.label_values import relevance_values
from trimformer.data.tasks.retrieval import METRIC, OF_DENSE, is_query_and_passage
from trimformer.data.tasks.retrieval_metrics import DEPTH, scores_of_ranks
from trimformer.data.tasks.text import TextTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RerankingTask(TextTask):
    """A query and a candidate passage per row; the model's score orders the candidates of each query.

    The candidates with a query's highest label are right. Without labels it is the one that the dense model puts first.
    Queries whose candidates are all right, such as those with one candidate, are not scored.

    Attributes:
        first: by query, the passages that the dense model puts first, several if their scores are equal; None: not
            known, or the rows have labels.
    """

    first: Mapping[str, frozenset[str]] | None = None

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """Means of the scores of all queries, with half their 95 % intervals; then correlations with the labels."""
        scores: dict[str, float] = {}
        for name, values in self.row_scores(outputs, rows).items():
            scored = values[~np.isnan(values)]
            scores |= {name: float(scored.mean()), f"{name}_ci95": confidence_interval(scored)}
        return scores | super().score(outputs, features, rows)

    def row_scores(self, outputs: Sequence[Tensor], rows: Rows) -> dict[str, NDArray[np.float64]]:
        """Returns the scores of each query in its first row, [rows]; NaN in other rows; empty if none is scored.

        `accuracy@1` is the share of queries that put a right passage first.
        """
        right = self._right(rows)
        if not right:
            return {}
        candidates, values = self._candidates(rows), _scores(outputs)
        ranks = []
        for query, answers in right.items():
            places = candidates[query]
            is_right = np.isin(np.arange(len(places)), answers)
            order = np.lexsort((is_right, -values[places]))  # equal scores count as the wrong order
            rank = np.empty(len(places), dtype=np.int64)
            rank[order] = np.arange(1, len(places) + 1)
            ranks.append(rank[answers])
        scores = scores_of_ranks(ranks)
        del scores[f"recall@{DEPTH}"]  # most queries have few more candidates
        scores["accuracy@1"] = np.array([float(found.min() == 1) for found in ranks])
        firsts = [candidates[query][0] for query in right]
        prefix = OF_DENSE if self.first is not None else ""
        by_row = {}
        for name, found in scores.items():
            by_row[f"{prefix}{name}"] = np.full(len(rows), np.nan)
            by_row[f"{prefix}{name}"][firsts] = found
        return by_row

    def scored_rows(self, rows: Rows) -> list[int]:
        """Returns the indices of the rows that hold the scores of the queries."""
        candidates = self._candidates(rows)
        return sorted(candidates[query][0] for query in self._right(rows))

    @property
    def needs_dense_outputs(self) -> bool:
        """Whether the right passages are the dense model's first ones, which are not known yet."""
        return self.first is None and self.metric == f"{OF_DENSE}{METRIC}"

    def with_first_passages(self, outputs: Sequence[Tensor], rows: Rows) -> "RerankingTask":
        """Returns the task whose right passages are those that the dense model puts first.

        Args:
            outputs: the dense model's scores, one per row.
            rows: the rows.
        """
        values, passages = _scores(outputs), self._texts(rows, 1)
        first = {
            query: frozenset(passages[i] for i in places if values[i] == values[places].max())
            for query, places in self._candidates(rows).items()
        }
        return replace(self, first=first)

    def _texts(self, rows: Rows, column: int) -> list[str]:
        return [str(row[self.text_columns[column]]) for row in rows]

    def _candidates(self, rows: Rows) -> dict[str, list[int]]:
        """Rows of each query."""
        candidates: dict[str, list[int]] = {}
        for i, query in enumerate(self._texts(rows, 0)):
            candidates.setdefault(query, []).append(i)
        return candidates

    def _right(self, rows: Rows) -> dict[str, list[int]]:
        """Positions of the right candidates among those of each scored query."""
        if self.first is not None:
            passages = self._texts(rows, 1)
            is_right = np.array([passages[i] in self.first.get(q, ()) for i, q in enumerate(self._texts(rows, 0))])
        elif self.label_column is not None and all(row.get(self.label_column) is not None for row in rows):
            labels = np.array(relevance_values(rows, self.label_column), dtype=np.float64)
            is_right = np.zeros(len(rows), dtype=bool)
            for places in self._candidates(rows).values():
                is_right[places] = labels[places] == labels[places].max()
        else:
            return {}
        found = {query: is_right[places] for query, places in self._candidates(rows).items()}
        return {query: np.flatnonzero(flags).tolist() for query, flags in found.items() if 0 < flags.sum() < len(flags)}


def settle_candidates(task: Task, sets: Sequence[Rows]) -> Task:
    """Decides from all rows whether a model with one output per pair of texts is scored by the order of candidates.

    Args:
        task: any task.
        sets: all sets of rows.

    Returns:
        A reranking task if the columns are queries and passages and a query of a set has several passages; other tasks
        as they are.
    """
    if not isinstance(task, TextTask) or task.problem != "regression" or isinstance(task, RerankingTask):
        return task
    if not is_query_and_passage(task.text_columns) or not any(
        _has_candidates(rows, task.text_columns) for rows in sets
    ):
        return task
    metric = METRIC if task.label_column else f"{OF_DENSE}{METRIC}"
    if not task.label_column:
        logger.info("the pairs have no labels: the passage that the dense model puts first is right")
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    return RerankingTask(**{**values, "name": "reranking", "metric": metric})


def _has_candidates(rows: Rows, columns: Sequence[str]) -> bool:
    """Whether a query has several different passages."""
    pairs = {tuple(str(row.get(column)) for column in columns) for row in rows}
    return len({query for query, _ in pairs}) < len(pairs)


def _scores(outputs: Sequence[Tensor]) -> NDArray[np.float64]:
    """The scores [rows] of outputs [1] each."""
    return np.array([float(output[0]) for output in outputs])
