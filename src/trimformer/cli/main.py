"""The command line: `trimformer prune | sweep | evaluate | export | finetune | lut | bench`."""

import argparse
import sys
from collections.abc import Sequence

from trimformer.cli import evaluate, export, finetune, latency, prune, sweep
from trimformer.cli.logs import guarded
from trimformer.version import __version__


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trimformer", description="Prune Transformers encoders without retraining.")
    parser.add_argument("--version", action="version", version=f"trimformer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prune.add_arguments(commands.add_parser("prune", help="prune a fine-tuned model directory to a budget"))
    sweep.add_arguments(commands.add_parser("sweep", help="prune to several budgets from one calibration"))
    evaluate.add_arguments(commands.add_parser("evaluate", help="score a model directory, dense or pruned"))
    export.add_arguments(commands.add_parser("export", help="write ONNX files, in float32 and eight bits"))
    latency.add_lut_arguments(commands.add_parser("lut", help="measure latency look-up tables of a model's sublayers"))
    latency.add_bench_arguments(commands.add_parser("bench", help="compare the latency of model directories"))
    # Its flags are parsed by Transformers' own parser.
    commands.add_parser("finetune", help="fine-tune a model, before or after pruning", add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "finetune":
        return guarded(lambda: finetune.run(rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.words = sys.argv[1:] if argv is None else list(argv)  # for the card
    return guarded(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
