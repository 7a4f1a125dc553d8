"""Tasks by name, and tasks guessed from a model and the user's rows."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from trimformer.data import Rows
from trimformer.errors import TrimformerError
from trimformer.objective import find_problem
from trimformer.tasks.base import Task
from trimformer.tasks.glue import GLUE_TASKS
from trimformer.tasks.text import TextTask, text_task

__all__ = ["TASKS", "Task", "TextTask", "find_task", "infer_task"]

TASKS: dict[str, Task] = {task.name: task for task in GLUE_TASKS}


def find_task(name: str) -> Task:
    """A task by its name.

    Raises:
        TrimformerError: there is no such task.
    """
    if name not in TASKS:
        raise TrimformerError(f"task '{name}' is unknown; known are {', '.join(TASKS)}")
    return TASKS[name]


def infer_task(
    model: PreTrainedModel,
    rows: Rows,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int = 128,
) -> Task:
    """The task that the model's head and the columns of the rows tell.

    Raises:
        TrimformerError: no text column is named and none can be guessed.
    """
    return text_task(
        find_problem(model),
        rows,
        text_columns=text_columns,
        label_column=label_column,
        num_labels=model.config.num_labels,
        max_length=max_length,
    )
