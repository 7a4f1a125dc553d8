"""Tasks by name, and tasks guessed from a model and the user's rows."""

import sys
from collections.abc import Sequence

from transformers import PreTrainedConfig

from trimformer.batches.data import Rows
from trimformer.batches.output import Problem
from trimformer.batches.tasks.base import Task, check_columns
from trimformer.batches.tasks.glue import GLUE_TASKS
from trimformer.batches.tasks.span import SPAN_TASKS, SpanTask, span_task
from trimformer.batches.tasks.text import TextTask, text_task
from trimformer.batches.tasks.tokens import TokenTask, token_task
from trimformer.errors import TrimformerError

__all__ = ["TASKS", "SpanTask", "Task", "TextTask", "TokenTask", "find_task", "infer_task"]

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE_TASKS, *SPAN_TASKS)}


def find_task(name: str) -> Task:
    """A task by its name.

    Raises:
        TrimformerError: there is no such task.
    """
    if name not in TASKS:
        raise TrimformerError(f"task '{name}' is unknown; known are {', '.join(TASKS)}")
    return TASKS[name]


def infer_task(
    problem: Problem,
    config: PreTrainedConfig,
    rows: Rows,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
) -> Task:
    """The task that the model's head and the columns of the rows tell.

    Args:
        problem: kind of the model's output.
        config: of the model; its labels are the task's.
        rows: the user's examples.
        text_columns: columns of texts, or of words; None: guessed. Span tasks have SQuAD's columns.
        label_column: column of labels, or of tags; None: guessed.
        max_length: tokens beyond which a sample is cut; None: 384 for spans, else the model's limit.

    Raises:
        TrimformerError: no text column is named and none can be guessed, there are more than two, or the label
            column that is named is not there.
    """
    if label_column:
        check_columns(rows, [label_column])
    if text_columns and len(text_columns) > 2:
        raise TrimformerError(f"{', '.join(text_columns)} are too many text columns; name one, or two for pairs")
    if problem == "span":
        return span_task(rows, max_length=max_length or 384)
    if problem == "tokens":
        return token_task(
            config,
            rows,
            words_column=text_columns[0] if text_columns else None,
            tags_column=label_column,
            max_length=max_length or sys.maxsize,
        )
    return text_task(
        problem,
        rows,
        text_columns=text_columns,
        label_column=label_column,
        num_labels=config.num_labels,
        max_length=max_length or sys.maxsize,
    )
