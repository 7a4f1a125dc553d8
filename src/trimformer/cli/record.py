"""Reads the command that `results.json` records; the file may have been written by anybody."""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trimformer.cli.flags import prune
from trimformer.errors import TrimformerError
from trimformer.utils.input_paths import check_readable

RESULTS = "results.json"
PROGRAM = ["trimformer", "prune"]

_MAX_BYTES = 2**24  # a real file has some ten thousand
_MAX_WORDS = 1000
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "command": list, "machine": dict, "scores": (dict, type(None)), "sizes": (dict, type(None)),
}  # fmt: skip
_INPUT_FLAGS = ("data", "eval_data", "judge_data", "polish_data", "lut", "vocabulary")


@dataclass(frozen=True)
class Record:
    """A pruning run as recorded in its output directory.

    Attributes:
        folder: the output directory.
        command: words of the command, beginning with `PROGRAM`.
        machine: device and versions of the run.
        figures: scores and sizes of the run.
    """

    folder: Path
    command: list[str]
    machine: Mapping[str, Any]
    figures: Mapping[str, Any]


def read_record(path: str | Path) -> Record:
    """Reads a `results.json`, named by its path or its directory.

    Raises:
        TrimformerError: `trimformer prune` did not write the file, or it lacks what a second run needs.
    """
    file = Path(path, RESULTS) if os.path.isdir(path) else Path(path)
    results = _read_json(file)
    if "members" in results:
        raise TrimformerError(
            f"'{file}' is the record of a sweep; run its `trimformer sweep` again with another output"
        )
    wrong = [key for key, kind in _REQUIRED.items() if key not in results or not isinstance(results[key], kind)]
    if wrong:
        raise TrimformerError(
            f"'{file}' records no `{wrong[0]}`, so this version's `trimformer prune` did not write it; prune again"
        )
    command, machine = results["command"], results["machine"]
    valid = all(isinstance(word, str) and "\0" not in word for word in command) and len(command) <= _MAX_WORDS
    if not valid or command[: len(PROGRAM)] != PROGRAM:
        raise TrimformerError(
            f"the command in '{file}' is not of `{' '.join(PROGRAM)}`, the only one that can be reproduced"
        )
    if not isinstance(machine.get("versions"), dict):
        raise TrimformerError(f"'{file}' records no versions of its machine; prune again")
    return Record(file.parent, command, machine, {key: results[key] for key in ("scores", "sizes")})


def _read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object of limited size."""
    check_readable(file, "results file")
    if not file.is_file():
        raise TrimformerError(f"results file '{file}' does not exist; name the {RESULTS} that `trimformer prune` wrote")
    if file.stat().st_size > _MAX_BYTES:
        raise TrimformerError(f"'{file}' has more than {_MAX_BYTES} bytes, so `trimformer prune` did not write it")
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise TrimformerError(f"'{file}' cannot be read as the {RESULTS} of a run: {reason}") from None
    if not isinstance(results, dict):
        raise TrimformerError(f"'{file}' holds no object, so `trimformer prune` did not write it")
    return results


class _Parser(argparse.ArgumentParser):
    """Parses the flags of `trimformer prune`, but raises an error instead of printing it and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raises the parsing error."""
        raise TrimformerError(f"the recorded command is not a valid `{' '.join(PROGRAM)}`: {message[:300]}")


def parse_command(record: Record, output: str | Path) -> argparse.Namespace:
    """Parses the recorded command, with its output replaced so that nothing is written where the record says.

    Args:
        record: the recorded run.
        output: output directory to use instead.

    Raises:
        TrimformerError: the command is not valid, or an input that it names does not exist.
    """
    parser = _Parser(prog=" ".join(PROGRAM), add_help=False)
    prune.add_arguments(parser)
    words = record.command[len(PROGRAM) :]
    arguments = parser.parse_args(words)
    arguments.command, arguments.words, arguments.output = PROGRAM[-1], record.command[1:], str(output)
    try:
        prune.check_request(arguments)
        for name in _INPUT_FLAGS:
            _check_exists(name, getattr(arguments, name))
    except TrimformerError as error:
        raise TrimformerError(f"the recorded command cannot be run here: {error}") from None
    return arguments


def _check_exists(name: str, value: str | None) -> None:
    """Checks that the path given to a flag exists."""
    if value is not None and not (name == "vocabulary" and value == "used") and not os.path.exists(value):
        raise TrimformerError(
            f"--{name.replace('_', '-')} '{value}' does not exist; relative paths start in the folder "
            "where the command ran, so change to it first"
        )
