"""The flags of `trimformer evaluate`."""

import argparse

from trimformer.cli.arguments import DataOptions, add_data_arguments, positive_int
from trimformer.utils.input_paths import check_model_place
from trimformer.utils.outputs import check_file

EXAMPLES = """examples:
  trimformer evaluate my-model-half --data my-data/ --output scores.json
  trimformer evaluate my-model-half --data my-data/ --reference my-model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_DIR")
    add_data_arguments(parser)
    parser.add_argument("--masks", metavar="DIR", help="evaluate under head_mask.pt and neuron_mask.pt of DIR")
    parser.add_argument("--reference", metavar="MODEL_DIR", help="dense model to measure the divergence from")
    parser.add_argument("--output", metavar="FILE", help="write the metrics to this JSON file; it must not exist")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="samples in a batch (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def check(arguments: argparse.Namespace) -> None:
    """What can be said of the flags before anything heavy is imported.

    Raises:
        TrimformerError: they cannot be used.
    """
    check_model_place(arguments.model)
    if arguments.reference is not None:
        check_model_place(arguments.reference)
    DataOptions.of(arguments).check()
    check_file(arguments.output)
