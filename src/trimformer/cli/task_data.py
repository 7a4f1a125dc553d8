"""Reads the task and its rows, as the flags name them, for several commands."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from trimformer.cli.arguments import check_data
from trimformer.data.block_options import BlockOptions
from trimformer.data.language_blocks import model_rows
from trimformer.data.outputs import find_problem
from trimformer.data.rows import Rows
from trimformer.data.splits import find_splits, load_hub, read_evaluation_sets, read_splits, used_splits
from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError
from trimformer.options.data import DataOptions
from trimformer.session.scored_rows import is_set_aside, keep_together
from trimformer.session.task import named_task, resolve_task


def load_task_data(
    options: DataOptions,
    model: Any,
    processor: Any,
    seed: int = 0,
    need_train: bool = True,
    timed_length: int | None = None,
    author: Any = None,
) -> tuple[Task, Rows, dict[str, Rows]]:
    """Reads the task, the training rows, and the validation rows by split.

    Args:
        options: where the data is, and what its columns mean.
        model: gives head and labels.
        processor: its tokenizer or processor.
        seed: of the split where there is but one set of rows.
        need_train: whether there must be training rows.
        timed_length: see `BlockOptions.of`.
        author: see `model_rows`.

    Raises:
        TrimformerError: there is no data, or it does not fit the model.
    """
    check_data(options)
    task = named_task(options, model)
    if options.data is not None:
        splits = read_splits(options.data)
    else:
        assert task is not None
        splits = load_hub(task.name, task.hub)
    if options.eval_data is not None:
        train, _ = find_splits(splits, need_train=False)
        splits = {"train": train, **read_evaluation_sets(options.eval_data)}
    blocks = BlockOptions.of(options, timed_length, seed=seed)
    used, all_splits = used_splits(splits, need_train=need_train), splits
    splits = {}
    for name, rows in used.items():
        is_given = options.eval_data is not None and name != "train"
        chosen = blocks.keeping_answers(rows, "--eval-data") if is_given else blocks
        splits[name] = model_rows(model, processor, rows, chosen, author)
    train, validation = find_splits(splits, seed, need_train=need_train)
    sets = [*([train] if need_train else []), *validation.values()]
    unused = [rows for name, rows in all_splits.items() if name in ("train", "training") and name not in used]
    task = _task_of_sets(task, options, model, sets, unused)
    if is_set_aside(validation):
        (name, aside), *_ = validation.items()
        train, validation[name] = keep_together(train, aside, task)
    return task, train, validation


def _task_of_sets(
    task: Task | None, options: DataOptions, model: Any, sets: Sequence[Rows], unused: Sequence[Rows]
) -> Task:
    """Finds what the columns of some sets mean, by their rows and those of an unused training split, where they fit.

    All numbers that occur tell whether labels are ids or names that are numbers, as in a run that calibrates.
    """
    if unused and find_problem(model) != "language":
        with suppress(TrimformerError):  # nothing else is asked of rows that are not used
            return resolve_task(task, options, model, [*sets, *unused])
    return resolve_task(task, options, model, sets)
