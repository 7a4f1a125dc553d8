"""What `results.json` records of a run, read as something that anybody may have written."""

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

_LARGEST = 2**24  # bytes; a real one has some ten thousand
_MOST_WORDS = 1000
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "command": list, "machine": dict, "scores": (dict, type(None)), "sizes": (dict, type(None)),
}  # fmt: skip
_READ = ("data", "judge_data", "polish_data", "lut", "vocabulary")


@dataclass(frozen=True)
class Record:
    """A run as its directory tells it.

    Attributes:
        folder: of the model that it wrote.
        command: its words, beginning with `PROGRAM`.
        machine: where it ran.
        figures: its scores and sizes.
    """

    folder: Path
    command: list[str]
    machine: Mapping[str, Any]
    figures: Mapping[str, Any]


def read_record(path: str | Path) -> Record:
    """Reads a `results.json`, or that of a directory.

    Raises:
        TrimformerError: it is none of `trimformer prune`, or lacks what a second run needs.
    """
    file = Path(path, RESULTS) if os.path.isdir(path) else Path(path)
    results = _read_json(file)
    if "members" in results:
        raise TrimformerError(
            f"'{file}' is the family of a sweep; run its `trimformer sweep` again with another output"
        )
    wrong = [key for key, kind in _NEEDED.items() if key not in results or not isinstance(results[key], kind)]
    if wrong:
        raise TrimformerError(
            f"'{file}' records no `{wrong[0]}`: it is no {RESULTS} of this version's `trimformer prune`; prune again"
        )
    command, machine = results["command"], results["machine"]
    words = all(isinstance(word, str) and "\0" not in word for word in command) and len(command) <= _MOST_WORDS
    if not words or command[: len(PROGRAM)] != PROGRAM:
        raise TrimformerError(f"the command in '{file}' is not of `{' '.join(PROGRAM)}`; only that can be run again")
    if not isinstance(machine.get("versions"), dict):
        raise TrimformerError(f"'{file}' records no versions of its machine; prune again")
    return Record(file.parent, command, machine, {key: results[key] for key in ("scores", "sizes")})


def _read_json(file: Path) -> dict[str, Any]:
    check_readable(file, "results file")
    if not file.is_file():
        raise TrimformerError(f"results file '{file}' does not exist; name the {RESULTS} that `trimformer prune` wrote")
    if file.stat().st_size > _LARGEST:
        raise TrimformerError(f"'{file}' has more than {_LARGEST} bytes, so it is no {RESULTS} of `trimformer prune`")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise TrimformerError(f"'{file}' cannot be read as the {RESULTS} of a run: {reason}") from None
    if not isinstance(found, dict):
        raise TrimformerError(f"'{file}' is no {RESULTS} of `trimformer prune`: it holds no object")
    return found


class _Parser(argparse.ArgumentParser):
    """Knows the flags of `trimformer prune`, and raises where that would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise TrimformerError(f"the recorded command is none of `{' '.join(PROGRAM)}`: {message[:300]}")


def parse_command(record: Record, output: str | Path) -> argparse.Namespace:
    """The arguments of the recorded command, but for its output: nothing is written where it says.

    Raises:
        TrimformerError: they are none, or what they name is not here.
    """
    parser = _Parser(prog=" ".join(PROGRAM), add_help=False)
    prune.add_arguments(parser)
    words = record.command[len(PROGRAM) :]
    arguments = parser.parse_args(words)
    arguments.command, arguments.words, arguments.output = PROGRAM[-1], record.command[1:], str(output)
    try:
        prune.check_request(arguments)
        for name in _READ:
            _check_there(name, getattr(arguments, name))
    except TrimformerError as error:
        raise TrimformerError(f"the recorded command cannot be run here: {error}") from None
    return arguments


def _check_there(name: str, value: str | None) -> None:
    if value is not None and not (name == "vocabulary" and value == "used") and not os.path.exists(value):
        raise TrimformerError(
            f"--{name.replace('_', '-')} '{value}' does not exist; relative paths are those of the folder where it ran"
        )
