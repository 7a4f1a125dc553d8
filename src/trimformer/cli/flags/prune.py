"""The flags of `trimformer prune`."""

import argparse
from typing import get_args

from trimformer.cli.arguments import (
    DataOptions,
    add_calibration_arguments,
    add_data_arguments,
    add_method_arguments,
    add_polish_arguments,
    chosen_method,
    positive_int,
)
from trimformer.errors import TrimformerError
from trimformer.options.checks import check_budget_numbers
from trimformer.options.choices import NEURON_MULTIPLE, ONNX, Backend, Metric
from trimformer.options.methods import DEFAULT_METHOD, METHODS, Method
from trimformer.options.quality_target import target_of
from trimformer.utils.input_paths import check_model_place, check_readable
from trimformer.utils.outputs import check_output

EXAMPLES = """examples:
  trimformer prune my-model --data texts.jsonl --constraint 0.5 --output my-model-half
  trimformer prune my-model --data my-data/ --max-drop 1.0 --output my-model-good
  trimformer prune my-model --data my-data/ --latency-ms 12 --bs 8 --seq-len 128 --output my-model-12ms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_DIR", help="fine-tuned checkpoint: a directory, or a name on the hub")
    add_data_arguments(parser)
    budget = parser.add_argument_group("budget", "one of these says how small the model is to be")
    budget.add_argument("--constraint", type=float, help="share of the cost to keep, in (0, 1]")
    budget.add_argument("--latency-ms", type=float, help="milliseconds to keep to")
    budget.add_argument("--max-drop", type=float, metavar="POINTS", help="the smallest model that loses no more points "
                        "of the task's score, with 95 %% confidence, on rows set aside")  # fmt: skip
    budget.add_argument("--max-divergence", type=float, metavar="NATS", help="the same by the outputs' divergence from "
                        "the dense model's, which needs no labels")  # fmt: skip
    budget.add_argument("--judge-data", metavar="FILE_OR_DIR", help="rows to judge a drop or a divergence by "
                        "(default: some of the training rows, set aside)")  # fmt: skip
    parser.add_argument("--output", required=True, help="directory of the pruned model; must not exist or be empty")
    parser.add_argument("--metric", choices=get_args(Metric), help="what the constraint counts "
                        "(default: mac; with --latency-ms latency)")  # fmt: skip
    parser.add_argument("--neuron-multiple", type=positive_int, default=NEURON_MULTIPLE, help="keep neurons in such "
                        "multiples, where dp allocates (default: %(default)s)")  # fmt: skip
    parser.add_argument("--standalone", action="store_true", help="write a file of code too, by which the result "
                        "loads without trimformer, given trust_remote_code=True")  # fmt: skip
    parser.add_argument("--vocabulary", metavar="used|FILE", help="drop the tokens that texts never use, from "
                        "tokenizer and model: texts of the data, or of a file with a text a line")  # fmt: skip
    latency = parser.add_argument_group("latency", "what --metric latency keeps to, and what the report measures")
    latency.add_argument("--lut", metavar="DIR", help="tables of `trimformer lut`; default: measured before pruning")
    latency.add_argument("--any-lut", action="store_true", help="use tables that were measured elsewhere")
    latency.add_argument("--bs", type=positive_int, help="batch size (default: 32, or that of the tables)")
    latency.add_argument("--seq-len", type=positive_int, help="tokens (default: the samples' average)")
    latency.add_argument("--backend", choices=get_args(Backend), default="eager", help="what runs the model")
    parser.add_argument("--export", choices=ONNX, help="ONNX files too, in the folder onnx: in float32, or also in "
                        "eight bits; the table shows them beside the dense model's")  # fmt: skip
    add_method_arguments(parser, METHODS, DEFAULT_METHOD)
    add_polish_arguments(parser)
    add_calibration_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    """What can be said of the flags before anything heavy is imported.

    Raises:
        TrimformerError: they cannot be used.
    """
    check_request(arguments)
    check_output(arguments.output)


def check_request(arguments: argparse.Namespace) -> None:
    """The same of all flags but the output.

    Raises:
        TrimformerError: they cannot be used.
    """
    if target_of(arguments.max_drop, arguments.max_divergence) is None:
        if arguments.judge_data:
            raise TrimformerError("--judge-data judges a --max-drop or a --max-divergence; give one, or leave it out")
        check_budget_numbers(arguments.constraint, arguments.latency_ms, arguments.metric)
    elif arguments.constraint is not None or arguments.latency_ms is not None:
        raise TrimformerError("--max-drop and --max-divergence find the budget: leave out --constraint, --latency-ms")
    elif arguments.judge_data:
        check_readable(arguments.judge_data, "data file")
    method = chosen_method(arguments)
    if arguments.standalone and isinstance(method, Method) and method.allocation == "plain":
        raise TrimformerError("--layout plain loads without trimformer as it is; leave out --standalone")
    check_model_place(arguments.model)
    if arguments.vocabulary and arguments.vocabulary != "used":
        check_readable(arguments.vocabulary, "text file")
    DataOptions.of(arguments).check()
