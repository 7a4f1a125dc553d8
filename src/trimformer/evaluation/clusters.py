"""Finds rows that are not independent because they share a text, such as questions on one paragraph."""

import numpy as np

from trimformer.data.rows import DOCUMENT, Rows, number_alike
from trimformer.data.tasks import (
    ChoiceTask,
    EmbeddingTask,
    EncodedTask,
    LanguageTask,
    RerankingTask,
    RetrievalTask,
    SpanTask,
    Task,
    TextTask,
    TokenTask,
)
from trimformer.data.tasks.label_values import column_values

FEWEST_DOCUMENTS = 30  # that show how much other documents may differ


def row_clusters(rows: Rows, task: Task) -> list[int]:
    """Returns the cluster of each row, numbered from 0 by first appearance.

    Rows of one cluster have the same text in the column with the longest texts, the same passage if they are searched,
    the same query if its candidates are ordered, or the same tokens. Blocks of tokens are of one document, unless there
    are fewer than `FEWEST_DOCUMENTS`. Images and sounds are all different.
    """
    if isinstance(task, LanguageTask) and count_documents(rows) >= FEWEST_DOCUMENTS:
        return number_alike(row[DOCUMENT] for row in rows)
    if isinstance(task, RetrievalTask) and not task.is_symmetric:  # a row may lack its passage
        queries, passages = (column_values(rows, column) for column in task.text_columns[:2])
        texts = [str(passage or query) for query, passage in zip(queries, passages, strict=True)]
    elif isinstance(task, RerankingTask):  # a query is scored as a whole
        texts = list(map(str, column_values(rows, task.text_columns[0])))
    else:
        columns = [list(map(str, column_values(rows, column))) for column in _text_columns(task)]
        texts = max(columns, key=lambda texts: np.mean([len(text) for text in texts]), default=[])
    return number_alike(texts) if texts else list(range(len(rows)))


def count_documents(blocks: Rows) -> int:
    """Returns the number of documents that blocks are of; 0 if it is not known."""
    return len({block[DOCUMENT] for block in blocks}) if all(DOCUMENT in block for block in blocks) else 0


def row_inputs(rows: Rows, task: Task) -> list[tuple[str, ...]]:
    """Returns the texts of each row, by which copies of a row are found; empty if the task reads none."""
    names = _text_columns(task)
    if isinstance(task, SpanTask):
        names.append(task.pair_columns[0])
    if isinstance(task, ChoiceTask):
        names += task.choice_columns
    columns = [list(map(str, column_values(rows, name))) for name in names]
    return list(zip(*columns, strict=True))


def _text_columns(task: Task) -> list[str]:
    """Returns the columns of texts that rows may share."""
    if isinstance(task, TextTask | EmbeddingTask):
        return list(task.text_columns)
    if isinstance(task, SpanTask):
        return [task.pair_columns[1]]
    if isinstance(task, TokenTask):
        return [task.words_column]
    if isinstance(task, ChoiceTask):
        return [column for column in (task.context_column, task.question_column) if column]
    is_encoded = isinstance(task, EncodedTask) and task.main_input == "input_ids"
    return ["input_ids"] if is_encoded or isinstance(task, LanguageTask) else []
