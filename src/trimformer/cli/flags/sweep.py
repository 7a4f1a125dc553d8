"""The flags of `trimformer sweep`."""

import argparse
from dataclasses import dataclass

from trimformer.cli.arguments import (
    add_data_options,
    add_execution_options,
    add_gguf_options,
    add_latency_options,
    add_polish_options,
    check_data,
    read_run_options,
)
from trimformer.cli.option_flags import add_options, read_options
from trimformer.errors import TrimformerError
from trimformer.options.budgets import SweepBudgetOptions
from trimformer.options.loading import LoadOptions
from trimformer.options.methods import SweepMethodOptions, find_methods
from trimformer.options.model import ModelOptions
from trimformer.options.run import RunOptions
from trimformer.utils.input_paths import check_model_path
from trimformer.utils.outputs import check_collection

EXAMPLES = """examples:
  trimformer sweep my-model --data my-data/ --constraints 0.9:0.1:0.1 --output family
  trimformer sweep my-model --data my-data/ --latency-ms 20,10,5 --methods obs,kwon2022 --output family-ms
"""


@dataclass(frozen=True)
class SweepFlags:
    """The flags of `trimformer sweep`, checked.

    Attributes:
        budgets: the budgets.
        methods: names of the methods.
        options: all other options of `trimformer.sweep`.
    """

    budgets: SweepBudgetOptions
    methods: SweepMethodOptions
    options: RunOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `trimformer sweep`."""
    parser.add_argument("model", metavar="MODEL_DIR", help="fine-tuned checkpoint: a directory, or a name on the hub")
    add_options(parser, LoadOptions)
    add_data_options(parser)
    budget = parser.add_argument_group("budgets", "one of these")
    add_options(budget, SweepBudgetOptions, "constraints", "latency_ms")
    parser.add_argument("--output", required=True, metavar="DIR", help="a directory for each member, family.json and "
                        "report.html; a sweep that was interrupted continues here")  # fmt: skip
    add_options(parser, SweepMethodOptions)
    add_options(parser, SweepBudgetOptions, "metric")
    add_options(parser, ModelOptions, "layout", "neuron_multiple")
    add_latency_options(parser, "batch_size", "seq_len", "backend")
    add_gguf_options(parser)
    add_polish_options(parser)
    add_execution_options(parser)


def read(arguments: argparse.Namespace) -> SweepFlags:
    """Returns the options that the flags give.

    Raises:
        TrimformerError: a value cannot be used, or flags contradict each other.
    """
    lists = {name: read_numbers(getattr(arguments, name)) for name in ("constraints", "latency_ms")}
    budgets = read_options(SweepBudgetOptions, arguments, **lists)
    methods = read_options(SweepMethodOptions, arguments)
    options = read_run_options(arguments)
    options.check(list(find_methods(methods.methods, options.model.layout).values()), budgets.resolved_metric)
    return SweepFlags(budgets, methods, options)


def check(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    flags = read(arguments)
    check_model_path(arguments.model)
    check_data(flags.options.data)
    check_collection(arguments.output)


def read_numbers(text: str | None) -> list[float] | None:
    """Reads the numbers of "0.7,0.5" or "0.9:0.1:0.1", which includes both ends.

    Raises:
        TrimformerError: the text is not such a list.
    """
    if text is None:
        return None
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",") if part.strip()]
        first, last, step = (float(part) for part in text.split(":"))
        count = round(abs(last - first) / step) + 1
        if not (step > 0 and 1 <= count <= 1000 and abs(abs(last - first) - (count - 1) * step) < 1e-9):
            raise ValueError(text)
        signed_step = step if last > first else -step
        return [round(first + i * signed_step, 9) for i in range(count)]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise TrimformerError(
            f"'{text}' is not a list of numbers such as 0.7,0.5,0.3 or FIRST:LAST:STEP such as 0.9:0.1:0.1"
        ) from None
