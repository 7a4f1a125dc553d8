"""The flags of `trimformer lut` and `trimformer bench`."""

import argparse

from trimformer.cli.arguments import positive_int
from trimformer.cli.option_flags import add_options
from trimformer.errors import TrimformerError
from trimformer.options.choices import DTYPES
from trimformer.options.execution import ExecutionOptions
from trimformer.options.latency import LatencyOptions
from trimformer.utils.input_paths import check_model_path
from trimformer.utils.outputs import check_file, check_output

LUT_EXAMPLES = """examples:
  trimformer lut my-model --bs 8 --seq-len 128 --output my-luts
  trimformer prune my-model --data my-data/ --lut my-luts --latency-ms 12 --output my-model-12ms
"""

BENCH_EXAMPLES = """examples:
  trimformer bench my-model my-model-half --bs 1,32 --seq-len 128
  trimformer bench my-model my-model-half --backend onnx-int8 --output figures.json
"""


def add_lut_arguments(parser: argparse.ArgumentParser, underscores: bool = False) -> None:
    """Adds the flags of `trimformer lut`, or with `underscores` those of the paper's `generate_lut.py`."""
    if underscores:
        parser.add_argument("--model_name", dest="model", required=True, help="model directory or name on the hub")
        parser.add_argument("--output_dir", dest="output", required=True, help="must not exist or be empty")
    else:
        parser.add_argument("model", metavar="MODEL", help="model directory, or name on the hub")
        parser.add_argument("--output", required=True, metavar="DIR", help="must not exist or be empty")
    parser.add_argument("--bs", type=positive_int, required=True, help="batch size")
    parser.add_argument("--seq-len", "--seq_len", type=positive_int, required=True, help="tokens")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for measuring (default: %(default)s)")
    _add_setting(parser)


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `trimformer bench`."""
    parser.add_argument("models", metavar="MODEL_DIR", nargs="+")
    parser.add_argument("--bs", type=_positive_ints, default=[1, 8, 32], help="batch sizes (default: 1,8,32)")
    parser.add_argument("--seq-len", type=_positive_ints, default=[32, 128], help="tokens (default: 32,128)")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each shape (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="write the figures to this JSON file; it must not exist")
    _add_setting(parser)


def _add_setting(parser: argparse.ArgumentParser) -> None:
    add_options(parser, LatencyOptions, "backend")
    parser.add_argument("--dtype", choices=DTYPES, help="default: the checkpoint's own")
    add_options(parser, ExecutionOptions, "device")


def _positive_ints(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",")]


def check_lut(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    _check_seconds(arguments.seconds)
    check_model_path(arguments.model)
    check_output(arguments.output)


def check_bench(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    _check_seconds(arguments.seconds)
    for model in arguments.models:
        check_model_path(model)
    check_file(arguments.output)


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds < float("inf"):
        raise TrimformerError(f"--seconds {seconds} is not a positive number")
