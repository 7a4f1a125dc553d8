"""Flags that several commands share, and what they mean; importing this costs nothing."""

import argparse
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from trimformer.cli.resume import calibration_dir
from trimformer.errors import TrimformerError
from trimformer.options.checks import POSITIVE, SEED
from trimformer.options.methods import (
    Allocation,
    AnyMethod,
    Criterion,
    Layout,
    Objective,
    Update,
    find_method,
    with_layout,
)
from trimformer.options.polish_budget import DEFAULT_BUDGET
from trimformer.utils.input_paths import check_readable

if TYPE_CHECKING:
    from trimformer.data.rows import Rows
    from trimformer.data.tasks import Task


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

    def check(self) -> None:
        """Raises:
        TrimformerError: flags contradict each other, or there is no data.
        """
        if self.task and (self.text_column or self.label_column):
            raise TrimformerError("--task gives the columns; leave out --text-column and --label-column")
        if self.data is None and not self.task:
            raise TrimformerError("no data: give a file or folder with --data, or a known task with --task")
        if self.data is not None:
            check_readable(self.data, "data file")


def load_task_data(options: DataOptions, model: Any, need_train: bool = True) -> "tuple[Task, Rows, dict[str, Rows]]":
    """Task, training rows, and validation rows by split.

    Raises:
        TrimformerError: there are no data, or they do not fit the model.
    """
    from trimformer.data.outputs import find_problem
    from trimformer.data.splits import find_splits, load_hub, read_splits
    from trimformer.data.tasks import find_task, task_of
    from trimformer.data.tasks.base import check_task
    from trimformer.data.tasks.sample_labels import check_labelled

    problem = find_problem(model)
    options.check()
    task = check_task(find_task(options.task), problem) if options.task else None
    if options.data is not None:
        splits = read_splits(options.data)
    else:
        assert task is not None
        splits = load_hub(task.name, task.hub)
    train, validation = find_splits(splits, options.seed, need_train=need_train)
    if task is None:
        columns = {"text_columns": options.text_column, "label_column": options.label_column}
        task = task_of(model, next(iter(validation.values())), **columns)
    check_labelled(task, [*([train] if need_train else []), *validation.values()])
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
    method.add_argument("--update", choices=get_args(Update), action=_Once, help="what is refitted")
    method.add_argument(
        "--reconstruct", dest="update", action=_Once, nargs=0, const="full", help="the same as --update full"
    )
    method.add_argument("--polish", action="store_true", help="train the result at the end on what the dense model "
                        "says, without labels")  # fmt: skip
    method.add_argument("--objective", choices=get_args(Objective), help="whether the ranking loss reads labels")


class _Once(argparse.Action):
    """A choice that two flags can make; they must not contradict each other."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        value = self.const or values
        if getattr(namespace, self.dest) not in (None, value):
            raise argparse.ArgumentError(self, f"{getattr(namespace, self.dest)} was asked for before; leave one out")
        setattr(namespace, self.dest, value)


def chosen_method(arguments: argparse.Namespace) -> AnyMethod:
    """The preset with the choices that replace its own."""
    names = ("criterion", "allocation", "update", "objective", "polish")
    choices = {name: getattr(arguments, name) for name in names}
    method = find_method(arguments.method, **{name: value for name, value in choices.items() if value})
    return with_layout(method, arguments.layout)


def add_polish_arguments(parser: argparse.ArgumentParser) -> None:
    polish = parser.add_argument_group("polish", "what --polish, or the method obs-polish, trains on and may cost")
    polish.add_argument("--polish-data", metavar="FILE", help="more samples like those of --data; labels are not read")
    polish.add_argument("--polish-budget", metavar="10x|2min", default=DEFAULT_BUDGET, help="forward passes of the "
                        "dense model over these samples, or a time (default: %(default)s)")  # fmt: skip
    polish.add_argument("--polish-stoppable", action="store_true", help="Ctrl-C while it trains ends it, the best so "
                        "far is kept")  # fmt: skip


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-samples", type=positive_int, default=2048, help="calibration examples (default: 2048)")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="samples in a batch, as long as they have "
                        "no more than 4,096 tokens (default: 32)")  # fmt: skip
    parser.add_argument("--max-memory", type=memory, metavar="SIZE", help="what the samples' hidden states and "
                        "channels may take in each process, such as 8GB; beyond, channels are computed twice "
                        "and hidden states go to temporary files")  # fmt: skip
    parser.add_argument("--bf16", action="store_true", help="calibrate and refit with passes in bfloat16")
    parser.add_argument("--seed", type=SEED.read, default=0, metavar="N", help="draws the calibration examples, the "
                        "fifth that is set aside where there is no validation split, and whatever else is random; "
                        "the same seed gives the same result (default: 0)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="keep what calibration found beside the output, "
                        "hidden, until that is complete: cut short, it goes on from there")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def calibration_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What these flags, with those of the polish, --neuron-multiple and --output, are called in Python."""
    names = ["neuron_multiple", "num_samples", "batch_size", "bf16", "seed", "device"]
    names += ["polish_budget", "polish_stoppable"]
    max_memory = math.inf if arguments.max_memory is None else arguments.max_memory
    options = {name: getattr(arguments, name) for name in names}
    return {**options, "max_memory": max_memory, "calibration_dir": calibration_dir(arguments)}


positive_int = POSITIVE.read
non_negative_int = SEED.read


def memory(text: str) -> float:
    """Bytes of "8GB", "500MB" or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 8GB or 500MB")
    return float(match[1]) * 1000 ** " KMGT".index(match[2] or " ")
