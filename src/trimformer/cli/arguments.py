"""Adds and reads groups of flags that several commands have. Importing this costs nothing."""

import argparse

from trimformer.cli.option_flags import add_options, read_options
from trimformer.cli.resume import calibration_dir
from trimformer.errors import TrimformerError
from trimformer.options.checks import POSITIVE, SEED
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.gguf import GgufOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.model import ModelOptions
from trimformer.options.output import OutputOptions
from trimformer.options.polish import PolishOptions
from trimformer.options.run import RunOptions
from trimformer.utils.input_paths import check_readable

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


def read_run_options(arguments: argparse.Namespace) -> RunOptions:
    """Returns the options that `prune` and `sweep` share.

    Raises:
        TrimformerError: a value cannot be used.
    """
    return RunOptions(
        read_options(DataOptions, arguments),
        read_options(ModelOptions, arguments),
        read_options(LatencyOptions, arguments),
        read_options(PolishOptions, arguments),
        read_options(ExecutionOptions, arguments, calibration_dir=calibration_dir(arguments)),
        read_options(GgufOptions, arguments),
    )


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
