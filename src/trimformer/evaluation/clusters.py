"""Finds rows that are not independent because they share a text, such as questions on one paragraph."""

from collections.abc import Sequence

import numpy as np

from trimformer.data.rows import Rows
from trimformer.data.tasks import (
    ChoiceTask,
    EmbeddingTask,
    EncodedTask,
    RerankingTask,
    RetrievalTask,
    SpanTask,
    Task,
    TextTask,
    TokenTask,
)


def row_clusters(rows: Rows, task: Task) -> list[int]:
    """Returns the cluster of each row, numbered from 0 by first appearance.

    Rows of one cluster have the same text in the column with the longest texts, or the same query if its candidates
    are ordered. Images and sounds are all different.
    """
    if isinstance(task, RetrievalTask) and not task.is_symmetric:  # a row may lack its passage
        texts = [str(row.get(task.text_columns[1]) or row.get(task.text_columns[0])) for row in rows]
        return _numbered(texts)
    if isinstance(task, RerankingTask):  # a query is scored as a whole
        return _numbered([str(row.get(task.text_columns[0])) for row in rows])
    columns = [[str(row.get(column)) for row in rows] for column in _text_columns(task)]
    if not columns:
        return list(range(len(rows)))
    longest = max(columns, key=lambda texts: np.mean([len(text) for text in texts]))
    return _numbered(longest)


def _numbered(texts: Sequence[str]) -> list[int]:
    """Numbers equal texts alike, from 0 by first appearance."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(text, len(numbers)) for text in texts]


def _text_columns(task: Task) -> list[str]:
    """Returns the columns of texts that a task reads."""
    if isinstance(task, TextTask | EmbeddingTask):
        return list(task.text_columns)
    if isinstance(task, SpanTask):
        return [task.pair_columns[1]]
    if isinstance(task, TokenTask):
        return [task.words_column]
    if isinstance(task, ChoiceTask):
        return [column for column in (task.context_column, task.question_column) if column]
    return ["input_ids"] if isinstance(task, EncodedTask) and task.main_input == "input_ids" else []
