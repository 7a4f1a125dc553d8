"""The command line: `trimformer prune | sweep | evaluate | export | finetune | lut | bench | reproduce`.

Modules that only a run needs are imported when it starts, so help and errors about flags appear at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from trimformer.cli.flags import evaluate, export, latency, prune, reproduce, sweep
from trimformer.cli.logs import guarded as guarded
from trimformer.cli.logs import quieten
from trimformer.cli.signals import leave, signals
from trimformer.errors import TrimformerError
from trimformer.version import __version__


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        help: one line of help.
        add_arguments: adds the flags to a parser.
        examples: examples for the end of the help.
        check: checks the flags before anything heavy is imported.
        module: the module of `function`, imported when the command runs.
        function: name of the function that runs the command on the parsed flags.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    examples: str
    check: Callable[[argparse.Namespace], None]
    module: str
    function: str = "run"

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Checks the flags, imports the command and runs it; returns its exit code, None for 0."""
        self.check(arguments)
        run = imported(self.module, self.function)
        return run(arguments)


COMMANDS = {
    "prune": Command(
        "prune a fine-tuned model directory to a budget",
        prune.add_arguments, prune.EXAMPLES, prune.check, "trimformer.cli.prune",
    ),
    "sweep": Command(
        "prune to several budgets from one calibration",
        sweep.add_arguments, sweep.EXAMPLES, sweep.check, "trimformer.cli.sweep",
    ),
    "evaluate": Command(
        "score a model directory, dense or pruned",
        evaluate.add_arguments, evaluate.EXAMPLES, evaluate.check, "trimformer.cli.evaluate",
    ),
    "export": Command(
        "write files for ONNX Runtime, OpenVINO or llama.cpp, in float32 and fewer bits",
        export.add_arguments, export.EXAMPLES, export.check, "trimformer.cli.export",
    ),
    "lut": Command(
        "measure latency look-up tables of a model's sublayers",
        latency.add_lut_arguments, latency.LUT_EXAMPLES, latency.check_lut, "trimformer.cli.latency", "run_lut",
    ),
    "bench": Command(
        "compare the latency of model directories",
        latency.add_bench_arguments, latency.BENCH_EXAMPLES, latency.check_bench, "trimformer.cli.latency",
        "run_bench",
    ),
    "reproduce": Command(
        "run the command that results.json records again, and compare",
        reproduce.add_arguments, reproduce.EXAMPLES, reproduce.check, "trimformer.cli.reproduce",
    ),
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(prog="trimformer", description="Prune Transformers models without retraining.")
    parser.add_argument("--version", action="version", version=f"trimformer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(
                name,
                help=command.help,
                epilog=command.examples,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    # Its flags are parsed by Transformers' own parser.
    commands.add_parser("finetune", help="fine-tune a model, before or after pruning", add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "finetune":
        return guarded(lambda: _finetune(rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.words = sys.argv[1:] if argv is None else list(argv)  # for the card
    return guarded(lambda: COMMANDS[arguments.command].run(arguments))


def command() -> NoReturn:
    """Runs the command line of this process, and ends it."""
    leave(main())


def _finetune(words: Sequence[str]) -> None:
    imported("trimformer.cli.finetune", "run")(words)


def imported(module: str, function: str) -> Callable[..., Any]:
    """Imports a function whose module takes a while to import.

    Raises:
        TrimformerError: the working directory is gone; without it, libraries end the process while they load.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise TrimformerError("the working directory is gone; change to one that exists") from error
    with signals.importing():
        imported_function: Callable[..., Any] = getattr(import_module(module), function)
        quieten()
    return imported_function


if __name__ == "__main__":
    command()
