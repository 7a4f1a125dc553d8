"""The task of a run: the named one, or the one inferred from the model and the rows."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem
from trimformer.data.rows import Rows
from trimformer.data.tasks import Task, find_task, follow_settings, task_of
from trimformer.data.tasks.base import check_task
from trimformer.data.tasks.sample_labels import check_labelled
from trimformer.options.data import DataOptions


def named_task(options: DataOptions, model: PreTrainedModel) -> Task | None:
    """The known task that the options name, if they name one.

    Raises:
        TrimformerError: there is no such task, or it does not fit the model's head.
    """
    problem = find_problem(model)
    return check_task(find_task(options.task), problem) if options.task else None


def resolve_task(task: Task | None, options: DataOptions, model: PreTrainedModel, sets: Sequence[Rows]) -> Task:
    """The task of a run. The command line and Python infer it by this one rule, from the first set of rows.

    Args:
        task: a task that is known already; None: inferred.
        options: columns and longest text.
        model: gives head and labels.
        sets: all sets of rows, the ones to calibrate on first.

    Raises:
        TrimformerError: the columns do not fit the model, or only some sets have labels.
    """
    if task is None:
        task = task_of(model, sets[0], text_columns=options.text_columns, label_column=options.label_column)
    else:
        task = follow_settings(task, model)
    check_labelled(task, sets)
    return replace(task, max_length=options.max_length) if options.max_length else task
