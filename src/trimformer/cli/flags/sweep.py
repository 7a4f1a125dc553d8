"""The flags of `trimformer sweep`."""

import argparse
from typing import get_args

from trimformer.cli.arguments import (
    DataOptions,
    add_calibration_arguments,
    add_data_arguments,
    add_polish_arguments,
    positive_int,
)
from trimformer.errors import TrimformerError
from trimformer.options.budgets import budgets_of
from trimformer.options.choices import NEURON_MULTIPLE, Backend, Metric
from trimformer.options.methods import DEFAULT_METHOD, METHODS, Layout, find_methods
from trimformer.utils.input_paths import check_model_place

EXAMPLES = """examples:
  trimformer sweep my-model --data my-data/ --constraints 0.9:0.1:0.1 --output family
  trimformer sweep my-model --data my-data/ --latency-ms 20,10,5 --methods obs,kwon2022 --output family-ms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_DIR", help="fine-tuned checkpoint: a directory, or a name on the hub")
    add_data_arguments(parser)
    budget = parser.add_argument_group("budgets", "one of these")
    budget.add_argument("--constraints", metavar="LIST", help="shares of the cost to keep: 0.7,0.5,0.3 or "
                        "FIRST:LAST:STEP, such as 0.9:0.1:0.1")  # fmt: skip
    budget.add_argument("--latency-ms", metavar="LIST", help="milliseconds to keep to: 20,10,5")
    parser.add_argument("--output", required=True, metavar="DIR", help="a directory for each member, family.json and "
                        "report.html; where a sweep was broken off, it goes on")  # fmt: skip
    parser.add_argument("--methods", default=DEFAULT_METHOD, metavar="LIST", help=f"of {', '.join(METHODS)} "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--layout", choices=get_args(Layout), default="free", help="see `trimformer prune`")
    parser.add_argument("--metric", choices=get_args(Metric), help="what the constraints count "
                        "(default: mac; with --latency-ms latency)")  # fmt: skip
    parser.add_argument("--neuron-multiple", type=positive_int, default=NEURON_MULTIPLE, help="keep neurons in such "
                        "multiples, where dp allocates (default: %(default)s)")  # fmt: skip
    latency = parser.add_argument_group("latency", "what --metric latency keeps to, and what the report measures")
    latency.add_argument("--bs", type=positive_int, default=32, help="batch size (default: %(default)s)")
    latency.add_argument("--seq-len", type=positive_int, help="tokens (default: the samples' average)")
    latency.add_argument("--backend", choices=get_args(Backend), default="eager", help="what runs the model")
    add_polish_arguments(parser)
    add_calibration_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    """What can be said of the flags before anything heavy is imported.

    Raises:
        TrimformerError: they cannot be used.
    """
    arguments.metric = arguments.metric or ("mac" if arguments.latency_ms is None else "latency")
    budgets_of(numbers(arguments.constraints), numbers(arguments.latency_ms), arguments.metric)
    find_methods(names(arguments.methods), arguments.layout)
    check_model_place(arguments.model)
    DataOptions.of(arguments).check()


def names(text: str) -> list[str]:
    """Of "obs,kwon2022"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str | None) -> list[float] | None:
    """Of "0.7,0.5" or "0.9:0.1:0.1", which includes both ends.

    Raises:
        TrimformerError: it is no such list.
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
        way = step if last > first else -step
        return [round(first + i * way, 9) for i in range(count)]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise TrimformerError(
            f"'{text}' is no list of numbers such as 0.7,0.5,0.3 or FIRST:LAST:STEP such as 0.9:0.1:0.1"
        ) from None
