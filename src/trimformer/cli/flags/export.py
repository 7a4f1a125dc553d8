"""The flags of `trimformer export`."""

import argparse
from typing import get_args

from trimformer.cli.arguments import add_data_options, check_data, positive_int
from trimformer.cli.option_flags import add_options, read_options
from trimformer.errors import TrimformerError, quoted
from trimformer.options.choices import OPSETS, Format, Quantization
from trimformer.options.data import DataOptions
from trimformer.options.loading import LoadOptions
from trimformer.utils.input_paths import check_model_path
from trimformer.utils.outputs import check_output

EXAMPLES = """examples:
  trimformer export my-model-half --output my-model-onnx
  trimformer export my-model-half --int8 --data my-data/ --output my-model-int8
  trimformer export my-model-half --format openvino --int8 --data my-data/ --output my-model-openvino
  trimformer export my-language-model-half --format gguf --quantize q8_0,q4_0 --output my-model-gguf
"""

DEFAULT_QUANTIZATION: Quantization = "q8_0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `trimformer export`."""
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--output", required=True, metavar="DIR", help="must not exist or be empty; the files are "
                        "DIR/onnx/model.onnx, DIR/openvino/openvino_model.xml, DIR/gguf/model-Q8_0.gguf "
                        "and the like")  # fmt: skip
    parser.add_argument("--format", choices=get_args(Format), default="onnx", help="file format (default: onnx)")
    parser.add_argument("--int8", action="store_true", help="also write an 8-bit file; for OpenVINO, --data also "
                        "quantizes the activations")  # fmt: skip
    parser.add_argument("--quantize", metavar="TYPES", help="types of GGUF files, separated by commas: "
                        f"{', '.join(get_args(Quantization))} (default: {DEFAULT_QUANTIZATION})")  # fmt: skip
    parser.add_argument("--unverified", action="store_true", help="write GGUF files without comparing them with "
                        "PyTorch, which needs llama.cpp (the package xllamacpp)")  # fmt: skip
    parser.add_argument("--opset", type=positive_int, help="ONNX opset, "
                        f"{OPSETS[0]} to {OPSETS[-1]} (default: {OPSETS[-1]})")  # fmt: skip
    add_options(parser, LoadOptions, "model_type")  # files are always made from float32
    add_data_options(parser)


def has_data(arguments: argparse.Namespace) -> bool:
    """Returns whether the files are compared on data rather than on random inputs."""
    return arguments.data is not None or arguments.task is not None


def check(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    check_model_path(arguments.model)
    if arguments.opset is not None and arguments.opset not in OPSETS:
        raise TrimformerError(f"opset {arguments.opset} is not one of {OPSETS[0]} to {OPSETS[-1]}")
    if arguments.opset is not None and arguments.format != "onnx":
        raise TrimformerError(f"--opset applies to ONNX files only; leave it out with --format {arguments.format}")
    if arguments.format == "gguf":
        _check_gguf(arguments)
    elif arguments.quantize is not None or arguments.unverified:
        raise TrimformerError("--quantize and --unverified apply to GGUF files only; give them with --format gguf")
    if has_data(arguments):
        check_data(read_options(DataOptions, arguments))
    elif arguments.text_column or arguments.label_column or arguments.max_length or arguments.generate:
        raise TrimformerError(
            "--text-column, --label-column, --max-length and --generate say how data is read; give --data"
        )
    check_output(arguments.output)


def quantizations(words: str | None) -> list[Quantization]:
    """Returns the types of GGUF files that --quantize names, each once.

    Raises:
        TrimformerError: a type is unknown.
    """
    words = words or DEFAULT_QUANTIZATION
    kinds: dict[Quantization, None] = {}
    for word in words.lower().replace(",", " ").split():
        kind = next((kind for kind in get_args(Quantization) if kind == word), None)
        if kind is None:
            raise TrimformerError(
                f"--quantize {quoted(word)} is not one of {', '.join(get_args(Quantization))}; for other types, such "
                "as K-quants, write f16 and convert it with llama.cpp's own llama-quantize"
            )
        kinds[kind] = None
    if not kinds:
        raise TrimformerError(f"--quantize {quoted(words)} names no type; give {', '.join(get_args(Quantization))}")
    return list(kinds)


def _check_gguf(arguments: argparse.Namespace) -> None:
    """Checks the flags of an export to GGUF.

    Raises:
        TrimformerError: a type is unknown, or a flag is of other formats.
    """
    quantizations(arguments.quantize)
    if arguments.int8:
        raise TrimformerError("--int8 applies to ONNX and OpenVINO files only; give --quantize q8_0 with --format gguf")
    if has_data(arguments):
        raise TrimformerError("--data and --task apply to ONNX and OpenVINO files only; leave them out for GGUF files")
