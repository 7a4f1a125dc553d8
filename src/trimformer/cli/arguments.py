"""Flags that several commands share, and what they mean."""

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from trimformer.batches.data import Rows, find_splits, load_hub, read_splits
from trimformer.batches.output import find_problem
from trimformer.batches.tasks import Task, find_task, task_of
from trimformer.batches.tasks.base import check_task
from trimformer.errors import TrimformerError
from trimformer.methods import Allocation, AnyMethod, Criterion, Layout, Objective, Update, find_method, laid_out
from trimformer.polish.budget import DEFAULT_BUDGET


@dataclass(frozen=True)
class DataOptions:
    """Which rows, and what their columns mean.

    Attributes:
        data: file or folder; None: the task's own, from the hub.
        task: a known task's name; None: told by the model and the columns.
        text_column: one text column, or two for pairs.
        label_column: the column of labels.
        max_length: tokens beyond which a sample is cut.
        seed: of the split where there is but one set of rows.
    """

    data: str | None = None
    task: str | None = None
    text_column: list[str] | None = None
    label_column: str | None = None
    max_length: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, arguments: argparse.Namespace, seed: int = 0) -> "DataOptions":
        """From the flags of `add_data_arguments`."""
        return cls(
            arguments.data,
            arguments.task,
            arguments.text_column,
            arguments.label_column,
            arguments.max_length,
            seed,
        )


def load_task_data(options: DataOptions, model: Any, need_train: bool = True) -> tuple[Task, Rows, dict[str, Rows]]:
    """Task, training rows, and validation rows by split.

    Raises:
        TrimformerError: there are no data, or they do not fit the model.
    """
    problem = find_problem(model)
    if options.task and (options.text_column or options.label_column):
        raise TrimformerError("--task gives the columns; leave out --text-column and --label-column")
    task = check_task(find_task(options.task), problem) if options.task else None
    if options.data is not None:
        splits = read_splits(options.data)
    elif task is not None:
        splits = load_hub(task.name, task.hub)
    else:
        raise TrimformerError("no data: give a file or folder with --data, or a known task with --task")
    train, validation = find_splits(splits, options.seed, need_train=need_train)
    if task is None:
        columns = {"text_columns": options.text_column, "label_column": options.label_column}
        task = task_of(model, next(iter(validation.values())), **columns)
    return (replace(task, max_length=options.max_length) if options.max_length else task), train, validation


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", "--data-dir", "--data_dir", metavar="FILE_OR_DIR", help="JSON lines, CSV, TSV, text, "
                      "Parquet, a folder of <split> files, of images or of sounds by class, or a "
                      "datasets.save_to_disk folder")  # fmt: skip
    data.add_argument("--task", help="a known task (mrpc, squad, ...); default: told by the model and the columns")
    data.add_argument("--text-column", nargs="+", metavar="NAME", help="one text column, or two for pairs")
    data.add_argument("--label-column", metavar="NAME")
    data.add_argument("--max-length", type=positive_int, help="tokens beyond which a sample is cut (default: "
                      "the model's limit, for questions 384, for a known task its own)")  # fmt: skip


def add_method_arguments(parser: argparse.ArgumentParser, names: Iterable[str], default: str) -> None:
    method = parser.add_argument_group("method", "a preset, and choices of it to replace")
    method.add_argument("--method", default=default, help=f"{', '.join(names)} (default: %(default)s)")
    method.add_argument("--layout", choices=get_args(Layout), default="free", help="plain: only what the model's own "
                        "config can say, so that it loads anywhere (one width, some layers left out); it costs "
                        "accuracy")  # fmt: skip
    method.add_argument("--criterion", choices=get_args(Criterion), help="what ranks units")
    method.add_argument("--allocation", choices=get_args(Allocation), help="what shares out the budget")
    method.add_argument("--update", choices=get_args(Update), help="what is refitted")
    method.add_argument(
        "--reconstruct", dest="update", action="store_const", const="full", help="the same as --update full"
    )
    method.add_argument("--polish", action="store_true", help="train the result at the end on what the dense model "
                        "says, without labels")  # fmt: skip
    method.add_argument("--objective", choices=get_args(Objective), help="whether the ranking loss reads labels")


def chosen_method(arguments: argparse.Namespace) -> AnyMethod:
    """The preset with the choices that replace its own."""
    names = ("criterion", "allocation", "update", "objective", "polish")
    choices = {name: getattr(arguments, name) for name in names}
    method = find_method(arguments.method, **{name: value for name, value in choices.items() if value})
    return laid_out(method, arguments.layout)


def add_polish_arguments(parser: argparse.ArgumentParser) -> None:
    polish = parser.add_argument_group("polish", "what --polish, or the method obs-polish, trains on and may cost")
    polish.add_argument("--polish-data", metavar="FILE", help="more samples like those of --data; labels are not read")
    polish.add_argument("--polish-budget", metavar="10x|2min", default=DEFAULT_BUDGET, help="forward passes of the "
                        "dense model over these samples, or a time (default: %(default)s)")  # fmt: skip


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-samples", type=positive_int, default=2048, help="calibration examples (default: 2048)")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="samples in a batch, as long as they have "
                        "no more than 4,096 tokens (default: 32)")  # fmt: skip
    parser.add_argument("--max-memory", type=memory, metavar="SIZE", help="what the samples' hidden states and "
                        "channels may take in each process, such as 8GB; beyond, channels are computed twice "
                        "and hidden states go to temporary files")  # fmt: skip
    parser.add_argument("--bf16", action="store_true", help="calibrate and refit with passes in bfloat16")
    parser.add_argument("--seed", type=non_negative_int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def memory(text: str) -> float:
    """Bytes of "8GB", "500MB" or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 8GB or 500MB")
    return float(match[1]) * 1000 ** " KMGT".index(match[2] or " ")


def non_negative_int(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 up")
    return int(text)


def output_file(name: str | None) -> Path | None:
    """A file to be written at the end of a run, if one is named; its folder must be there now."""
    path = Path(name) if name else None
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise TrimformerError(f"output file '{path}' is a folder, or in one that does not exist; name a file")
    return path
