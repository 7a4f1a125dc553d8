"""The flags of `trimformer reproduce`."""

import argparse

from trimformer.cli.record import parse_command, read_record
from trimformer.utils.outputs import check_output

EXAMPLES = """Run it in the folder where the recorded command ran, because its relative paths start there. Exit code 0:
masks and weights are the same bytes; 4: they differ.

examples:
  trimformer reproduce my-model-half/results.json
  trimformer reproduce my-model-half/results.json --output my-model-half-again
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `trimformer reproduce`."""
    parser.add_argument("results", metavar="RESULTS_JSON", help="results.json that `trimformer prune` wrote")
    parser.add_argument("--output", metavar="DIR", help="keep what the second run writes; must not exist or be empty "
                        "(default: a temporary folder)")  # fmt: skip


def check(arguments: argparse.Namespace) -> None:
    """Checks the flags and the recorded command before anything heavy is imported.

    Raises:
        TrimformerError: a flag or the recorded command cannot be used.
    """
    if arguments.output is not None:
        check_output(arguments.output)
    parse_command(read_record(arguments.results), "")
