"""The flags of `trimformer lut` and `trimformer bench`."""

import argparse
from typing import get_args

from trimformer.cli.arguments import positive_int
from trimformer.cli.flags.export import DEFAULT_QUANTIZATION, quantizations
from trimformer.cli.option_flags import add_options
from trimformer.errors import TrimformerError
from trimformer.options.choices import LLAMA_CPP, ONNX, AnyBackend
from trimformer.options.execution import ExecutionOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.loading import LoadOptions
from trimformer.utils.input_paths import check_model_path
from trimformer.utils.outputs import check_file, check_output

BATCH_SIZES = (1, 8, 32)
SEQ_LENS = [32, 128]

LUT_EXAMPLES = """examples:
  trimformer lut my-model --bs 8 --seq-len 128 --output my-luts
  trimformer prune my-model --data my-data/ --lut my-luts --latency-ms 12 --output my-model-12ms
"""

BENCH_EXAMPLES = """examples:
  trimformer bench my-model my-model-half --bs 1,32 --seq-len 128
  trimformer bench my-model my-model-half --backend onnx-int8 --output figures.json
  trimformer bench my-language-model my-language-model-half --backend llama.cpp --quantize f16,q4_0 --seq-len 512
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
    parser.add_argument("--seq-len", "--seq_len", type=positive_int, required=underscores, help="tokens of a "
                        "text; leave it out for images and sounds")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60.0, help="time for measuring (default: %(default)s)")
    add_options(parser, LatencyOptions, "backend")
    _add_setting(parser)


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `trimformer bench`."""
    parser.add_argument("models", metavar="MODEL_DIR", nargs="+")
    parser.add_argument("--bs", type=_positive_ints, help="batch sizes (default: 1,8,32; llama.cpp runs 1)")
    parser.add_argument("--seq-len", type=_positive_ints, default=SEQ_LENS, help="tokens (default: 32,128)")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each shape (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="write the figures to this JSON file; it must not exist")
    parser.add_argument("--backend", default="eager", choices=get_args(AnyBackend), help="what runs the "
                        "models; llama.cpp: tokens per second of a prompt of --seq-len tokens (prefill), and of those "
                        "generated after it (decode)")  # fmt: skip
    parser.add_argument("--quantize", metavar="TYPES", help="types of GGUF files in llama.cpp, separated by commas "
                        f"(default: {DEFAULT_QUANTIZATION})")  # fmt: skip
    _add_setting(parser)


def _add_setting(parser: argparse.ArgumentParser) -> None:
    add_options(parser, LoadOptions)
    add_options(parser, ExecutionOptions, "device")


def _positive_ints(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",")]


def check_lut(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    _check_seconds(arguments.seconds)
    _check_dtype(arguments)
    if arguments.backend == LLAMA_CPP:
        raise TrimformerError(
            f"tables of {LLAMA_CPP} are not written to files: `trimformer prune --backend {LLAMA_CPP}` measures its own"
        )
    check_model_path(arguments.model)
    check_output(arguments.output)


def check_bench(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    _check_seconds(arguments.seconds)
    _check_dtype(arguments)
    for model in arguments.models:
        check_model_path(model)
    if arguments.backend == LLAMA_CPP:
        _check_llama_cpp(arguments)
    elif arguments.quantize is not None:
        raise TrimformerError(f"--quantize names GGUF files; give it with --backend {LLAMA_CPP}, or leave it out")
    check_file(arguments.output)


def _check_dtype(arguments: argparse.Namespace) -> None:
    """Checks that no other dtype is wanted of ONNX files, which are float32 or int8."""
    if arguments.backend in ONNX and arguments.dtype not in (None, "float32"):
        raise TrimformerError(
            f"ONNX files are float32 or int8; leave out --dtype {arguments.dtype}, or give another --backend"
        )


def _check_llama_cpp(arguments: argparse.Namespace) -> None:
    """Checks the flags of GGUF files in llama.cpp.

    Raises:
        TrimformerError: a flag is of other backends, or names an unknown type.
    """
    quantizations(arguments.quantize)
    if arguments.bs not in (None, [1]):
        raise TrimformerError(f"--backend {LLAMA_CPP} times one text at a time; leave out --bs")
    if arguments.dtype is not None:
        raise TrimformerError(f"--dtype applies to PyTorch only; give --quantize with --backend {LLAMA_CPP}")
    if arguments.device not in ("auto", "cpu"):
        raise TrimformerError(f"--backend {LLAMA_CPP} is timed on the CPU only, not on '{arguments.device}'")


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds < float("inf"):
        raise TrimformerError(f"--seconds {seconds} is not a positive number")
