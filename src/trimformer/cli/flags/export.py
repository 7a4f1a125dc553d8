"""The flags of `trimformer export`."""

import argparse

from trimformer.choices import OPSETS
from trimformer.cli.arguments import DataOptions, add_data_arguments, positive_int
from trimformer.errors import TrimformerError
from trimformer.files import check_output
from trimformer.places import check_model_place

EXAMPLES = """examples:
  trimformer export my-model-half --output my-model-onnx
  trimformer export my-model-half --int8 --data my-data/ --output my-model-int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--output", required=True, metavar="DIR", help="must not exist or be empty; the files are "
                        "DIR/onnx/model.onnx and the like")  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="a file with weights in eight bits too")
    parser.add_argument("--opset", type=positive_int, help=f"{OPSETS[0]} to {OPSETS[-1]} (default: {OPSETS[-1]})")
    add_data_arguments(parser)


def has_data(arguments: argparse.Namespace) -> bool:
    """Whether the files are compared on data, and not on made-up inputs."""
    return arguments.data is not None or arguments.task is not None


def check(arguments: argparse.Namespace) -> None:
    """What can be said of the flags before anything heavy is imported.

    Raises:
        TrimformerError: they cannot be used.
    """
    check_model_place(arguments.model)
    if arguments.opset is not None and arguments.opset not in OPSETS:
        raise TrimformerError(f"opset {arguments.opset} is not one of {OPSETS[0]} to {OPSETS[-1]}")
    if has_data(arguments):
        DataOptions.of(arguments).check()
    elif arguments.text_column or arguments.label_column or arguments.max_length:
        raise TrimformerError("--text-column, --label-column and --max-length are of data; give it with --data")
    check_output(arguments.output)
