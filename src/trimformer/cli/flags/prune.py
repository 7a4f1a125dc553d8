"""The flags of `trimformer prune`."""

import argparse
from typing import get_args

from trimformer.checks import check_budget_numbers
from trimformer.choices import NEURON_MULTIPLE, ONNX, Backend, Metric
from trimformer.cli.arguments import (
    DataOptions,
    add_calibration_arguments,
    add_data_arguments,
    add_method_arguments,
    chosen_method,
    positive_int,
)
from trimformer.errors import TrimformerError
from trimformer.files import check_output
from trimformer.methods import DEFAULT_METHOD, METHODS, Method
from trimformer.places import check_model_place, check_readable

EXAMPLES = """examples:
  trimformer prune my-model --data texts.jsonl --constraint 0.5 --output my-model-half
  trimformer prune my-model --data my-data/ --latency-ms 12 --bs 8 --seq-len 128 --output my-model-12ms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_DIR", help="fine-tuned checkpoint: a directory, or a name on the hub")
    add_data_arguments(parser)
    parser.add_argument("--constraint", type=float, help="share of the cost to keep, in (0, 1]")
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
    latency.add_argument("--latency-ms", type=float, help="milliseconds to keep to, instead of --constraint")
    latency.add_argument("--lut", metavar="DIR", help="tables of `trimformer lut`; default: measured before pruning")
    latency.add_argument("--any-lut", action="store_true", help="use tables that were measured elsewhere")
    latency.add_argument("--bs", type=positive_int, default=32, help="batch size (default: %(default)s)")
    latency.add_argument("--seq-len", type=positive_int, help="tokens (default: the samples' average)")
    latency.add_argument("--backend", choices=get_args(Backend), default="eager", help="what runs the model")
    parser.add_argument("--export", choices=ONNX, help="ONNX files too, in the folder onnx: in float32, or also in "
                        "eight bits; the table shows them beside the dense model's")  # fmt: skip
    add_method_arguments(parser, METHODS, DEFAULT_METHOD)
    add_calibration_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    """What can be said of the flags before anything heavy is imported.

    Raises:
        TrimformerError: they cannot be used.
    """
    check_budget_numbers(arguments.constraint, arguments.latency_ms, arguments.metric)
    method = chosen_method(arguments)
    if arguments.standalone and isinstance(method, Method) and method.allocation == "plain":
        raise TrimformerError("--layout plain loads without trimformer as it is; leave out --standalone")
    check_model_place(arguments.model)
    if arguments.vocabulary and arguments.vocabulary != "used":
        check_readable(arguments.vocabulary, "text file")
    DataOptions.of(arguments).check()
    check_output(arguments.output)
