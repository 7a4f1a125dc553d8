"""The flags of `trimformer evaluate`."""

import argparse

from trimformer.cli.arguments import add_data_options, check_data
from trimformer.cli.option_flags import add_options, read_options
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.loading import LoadOptions
from trimformer.utils.input_paths import check_model_path
from trimformer.utils.outputs import check_file

EXAMPLES = """examples:
  trimformer evaluate my-model-half --data my-data/ --output scores.json
  trimformer evaluate my-model-half --data my-data/ --reference my-model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `trimformer evaluate`."""
    parser.add_argument("model", metavar="MODEL_DIR")
    add_options(parser, LoadOptions)
    add_data_options(parser)
    parser.add_argument("--masks", metavar="DIR", help="evaluate under head_mask.pt and neuron_mask.pt of DIR")
    parser.add_argument("--reference", metavar="MODEL_DIR", help="dense model to measure the divergence from")
    parser.add_argument("--output", metavar="FILE", help="write the metrics to this JSON file; it must not exist")
    add_options(parser, DataOptions, "batch_size")
    add_options(parser, ExecutionOptions, "device")


def check(arguments: argparse.Namespace) -> None:
    """Checks all flags before anything heavy is imported.

    Raises:
        TrimformerError: a flag cannot be used.
    """
    check_model_path(arguments.model)
    if arguments.reference is not None:
        check_model_path(arguments.reference)
    check_data(read_options(DataOptions, arguments))
    check_file(arguments.output)
