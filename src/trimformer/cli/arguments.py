"""Reads the task and its rows, and adds groups of flags, for several commands. Importing this costs nothing."""

import argparse
from typing import TYPE_CHECKING, Any

from trimformer.cli.option_flags import add_options
from trimformer.errors import TrimformerError
from trimformer.options.checks import POSITIVE, SEED
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.gguf import GgufOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.output import OutputOptions
from trimformer.options.polish import PolishOptions
from trimformer.utils.input_paths import check_readable

if TYPE_CHECKING:
    from trimformer.data.rows import Rows
    from trimformer.data.tasks import Task

positive_int = POSITIVE.read
non_negative_int = SEED.read


def check_data(options: DataOptions) -> None:
    """Checks that there is data to read.

    Raises:
        TrimformerError: neither data nor a known task is given, or the data cannot be read.
    """
    if options.data is None and not options.task:
        raise TrimformerError("no data: give a file or folder with --data, or a known task with --task")
    for path in (options.data, options.eval_data):
        if path is not None:
            check_readable(path, "data file")


def load_task_data(
    options: DataOptions,
    model: Any,
    processor: Any,
    seed: int = 0,
    need_train: bool = True,
    timed_length: int | None = None,
    author: Any = None,
) -> "tuple[Task, Rows, dict[str, Rows]]":
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
    from trimformer.data.language_blocks import BlockOptions, model_rows
    from trimformer.data.splits import find_splits, load_hub, read_evaluation_rows, read_splits, used_splits
    from trimformer.session.calibration_data import keep_together
    from trimformer.session.scored_rows import is_set_aside
    from trimformer.session.task import named_task, resolve_task

    check_data(options)
    task = named_task(options, model)
    if options.data is not None:
        splits = read_splits(options.data)
    else:
        assert task is not None
        splits = load_hub(task.name, task.hub)
    if options.eval_data is not None:
        train, _ = find_splits(splits, need_train=False)
        splits = {"train": train, "validation": read_evaluation_rows(options.eval_data)}
    blocks = BlockOptions.of(options, timed_length, seed=seed)
    used = used_splits(splits, need_train=need_train)
    splits = {}
    for name, rows in used.items():
        is_given = options.eval_data is not None and name == "validation"
        chosen = blocks.keeping_answers(rows, "--eval-data") if is_given else blocks
        splits[name] = model_rows(model, processor, rows, chosen, author)
    train, validation = find_splits(splits, seed, need_train=need_train)
    sets = [*([train] if need_train else []), *validation.values()]
    task = resolve_task(task, options, model, sets)
    if is_set_aside(validation):
        (name, aside), *_ = validation.items()
        train, validation[name] = keep_together(train, aside, task)
    return task, train, validation


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name rows and columns."""
    group = parser.add_argument_group("data")
    add_options(group, DataOptions, "data", "task", "text_column", "label_column", "max_length", "generate")


def add_latency_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds the flags of latency, or those of these names."""
    group = parser.add_argument_group("latency", "inputs and backend with which latency is measured")
    add_options(group, LatencyOptions, *names)


def add_gguf_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of llama.cpp."""
    group = parser.add_argument_group("llama.cpp", "what --metric memory counts, and --backend llama.cpp times")
    add_options(group, GgufOptions)


def add_polish_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a polish."""
    group = parser.add_argument_group("polish", "what --polish, or the method obs-polish, trains on and may cost")
    add_options(group, PolishOptions)


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of calibration, memory, seed and device."""
    add_options(parser, DataOptions, "eval_data", "num_samples", "batch_size")
    add_options(parser, ExecutionOptions)
    add_options(parser, OutputOptions, "resume")
