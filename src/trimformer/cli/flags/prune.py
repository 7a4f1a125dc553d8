"""The flags of `trimformer prune`."""

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
from trimformer.options.budgets import BudgetOptions
from trimformer.options.loading import LoadOptions
from trimformer.options.methods import AnyMethod, Method, MethodOptions, with_layout
from trimformer.options.model import ModelOptions
from trimformer.options.output import OutputOptions
from trimformer.options.run import RunOptions
from trimformer.utils.input_paths import check_model_path, check_readable
from trimformer.utils.outputs import check_output

EXAMPLES = """examples:
  trimformer prune my-model --data texts.jsonl --constraint 0.5 --output my-model-half
  trimformer prune my-model --data my-data/ --max-drop 1.0 --output my-model-good
  trimformer prune my-model --data my-data/ --latency-ms 12 --bs 8 --seq-len 128 --output my-model-12ms
"""


@dataclass(frozen=True)
class PruneFlags:
    """The flags of `trimformer prune`, checked.

    Attributes:
        budget: the budget, or the quality to keep.
        method: the method, its choices and layout in place.
        options: all other options of `trimformer.prune`.
        output: what is written.
    """

    budget: BudgetOptions
    method: AnyMethod
    options: RunOptions
    output: OutputOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `trimformer prune`."""
    parser.add_argument("model", metavar="MODEL_DIR", help="fine-tuned checkpoint: a directory, or a name on the hub")
    add_options(parser, LoadOptions)
    add_data_options(parser)
    budget = parser.add_argument_group("budget", "one of these determines how small the model becomes")
    add_options(
        budget, BudgetOptions, "constraint", "latency_ms", "memory_mb", "max_drop", "max_divergence", "max_perplexity"
    )
    budget.add_argument("--judge-data", metavar="FILE_OR_DIR", help="rows that the quality target is tested on "
                        "(default: some of the training rows, set aside)")  # fmt: skip
    parser.add_argument("--output", required=True, help="directory of the pruned model; must not exist or be empty")
    add_options(parser, BudgetOptions, "metric")
    add_options(parser, ModelOptions, "neuron_multiple", "vocabulary")
    add_options(parser, OutputOptions, "standalone", "export")
    add_latency_options(parser)
    method = parser.add_argument_group("method", "a preset, and choices that replace its own")
    add_options(method, MethodOptions)
    method.add_argument("--reconstruct", action="store_true", help="the same as --update full")
    add_options(method, ModelOptions, "layout")
    add_gguf_options(parser)
    add_polish_options(parser)
    add_execution_options(parser)


def read(arguments: argparse.Namespace) -> PruneFlags:
    """Returns the options that the flags give.

    Raises:
        TrimformerError: a value cannot be used, or flags contradict each other.
    """
    budget, layout = read_options(BudgetOptions, arguments), arguments.layout
    if arguments.reconstruct and arguments.update not in (None, "full"):
        raise TrimformerError(f"--reconstruct means --update full, not {arguments.update}; leave one of them out")
    if layout != "free" and arguments.allocation not in (None, layout):
        raise TrimformerError(f"--layout {layout} replaces --allocation {arguments.allocation}; leave one of them out")
    update = "full" if arguments.reconstruct else arguments.update
    method = with_layout(read_options(MethodOptions, arguments, update=update).resolved, layout)
    options = read_run_options(arguments)
    options.check([method], budget.resolved_metric)
    return PruneFlags(budget, method, options, read_options(OutputOptions, arguments))


def check(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    check_request(arguments)
    check_output(arguments.output)


def check_request(arguments: argparse.Namespace) -> None:
    """Checks all flags but the output.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    flags = read(arguments)
    if flags.budget.is_empty:
        raise TrimformerError("give one of a constraint, a latency in ms, a memory in MB, or the quality to keep")
    if arguments.judge_data is not None and flags.budget.target is None:
        raise TrimformerError(
            "--judge-data needs --max-drop, --max-divergence or --max-perplexity; give one, or leave it out"
        )
    if arguments.judge_data is not None:
        check_readable(arguments.judge_data, "data file")
    plain = isinstance(flags.method, Method) and flags.method.allocation == "plain"
    if flags.output.standalone and plain:
        raise TrimformerError("--layout plain loads without trimformer as it is; leave out --standalone")
    counted = flags.options.gguf.quantize
    if flags.budget.resolved_metric == "memory" and flags.output.gguf and counted not in flags.output.gguf:
        raise TrimformerError(
            f"the memory budget counts a file of the type {counted} (--quantize), which --export does not write; name "
            "one type in both"
        )
    if flags.output.export and flags.options.model.vocabulary:
        raise TrimformerError(
            "--export compares models of one vocabulary; leave it out and run `trimformer export` on the result"
        )
    check_model_path(arguments.model)
    if flags.options.model.vocabulary not in (None, "used"):
        check_readable(str(flags.options.model.vocabulary), "text file")
    check_data(flags.options.data)
