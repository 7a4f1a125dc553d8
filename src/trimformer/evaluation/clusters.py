"""Finds rows that are not independent because they share a text, such as questions on one paragraph."""

import numpy as np

from trimformer.data.rows import Rows
from trimformer.data.tasks import ChoiceTask, EmbeddingTask, EncodedTask, SpanTask, Task, TextTask, TokenTask


def row_clusters(rows: Rows, task: Task) -> list[int]:
    """Returns the cluster of each row, numbered from 0 by first appearance.

    Rows of one cluster have the same text in the column with the longest texts. Images and sounds are all different.
    """
    columns = [[str(row.get(column)) for row in rows] for column in _text_columns(task)]
    if not columns:
        return list(range(len(rows)))
    longest = max(columns, key=lambda texts: np.mean([len(text) for text in texts]))
    numbers: dict[str, int] = {}
    return [numbers.setdefault(text, len(numbers)) for text in longest]


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
