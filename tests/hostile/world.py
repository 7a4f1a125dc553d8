"""A folder with tiny models and data, that a case spoils before a command runs in it."""

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.commands import paper_main, problem_rows, run, save_model, write_jsonl
from trimformer.cli.main import main

ROWS = 12
LONG = "x" * 300  # a name that no file can have

# How much of what is random is tried in the slow tests; `make fuzz` tries more.
FUZZ = int(os.environ.get("TRIMFORMER_FUZZ", "1"))


@dataclass(frozen=True)
class Case:
    """A command that must be refused.

    Attributes:
        words: of the command, of trimformer or after `main.py`; `{}` in one is the folder.
        says: what the sentence must hold.
        spoil: changes the folder before.
        problem: of the model.
    """

    words: str
    says: Sequence[str]
    spoil: Callable[[Path], Any] = lambda folder: None
    problem: str = "single_label"


@functools.cache
def _made(root: Path, problem: str) -> Path:
    folder = root / problem
    save_model(folder / "model", problem, num_hidden_layers=2)
    write_jsonl(folder / "rows.jsonl", problem_rows(problem, ROWS))
    return folder


def world(root: Path, problem: str, target: Path) -> Path:
    """A copy of the folder for a problem: `model` and `rows.jsonl`."""
    shutil.copytree(_made(root, problem), target, dirs_exist_ok=True)
    return target


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything in a folder: kind, and what a file holds."""

    def told(path: Path) -> Any:
        if path.is_symlink():
            return ("link", str(path.readlink()))
        if path.is_dir():
            return "folder"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "special"

    return {str(path.relative_to(folder)): told(path) for path in folder.rglob("*")}


def refusal(words: Sequence[str], capsys: Any) -> str:
    """Runs a command that must be refused; the sentence."""
    capsys.readouterr()
    code = run(paper_main, *words[1:]) if words[0] == "main.py" else run(main, *words)
    captured = capsys.readouterr()
    assert code == 2, (code, captured.err[-2000:])
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.strip() and not re.match(r"\d\d:\d\d:\d\d ", line)]
    if lines[0].startswith("usage: "):  # the parser's own
        assert "error: " in lines[-1]
        return lines[-1]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: "), captured.err
    return lines[0]


# Ways to spoil a folder.


def text(name: str, content: str | bytes) -> Callable[[Path], Any]:
    """A file with this content."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def rows(*extra: Any, name: str = "rows.jsonl", instead: bool = False) -> Callable[[Path], Any]:
    """Rows after those that are there, or instead of them."""

    def spoil(folder: Path) -> None:
        there = [] if instead else (folder / "rows.jsonl").read_text().splitlines()
        (folder / name).write_text("\n".join([*there, *map(json.dumps, extra)]) + "\n")

    return spoil


def every(**columns: Any) -> Callable[[Path], Any]:
    """Columns set to one value in all rows."""

    def spoil(folder: Path) -> None:
        there = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        (folder / "rows.jsonl").write_text("".join(json.dumps({**row, **columns}) + "\n" for row in there))

    return spoil


def config(file: str = "model/config.json", **changes: Any) -> Callable[[Path], Any]:
    """Entries of a JSON file set; None stays None."""

    def spoil(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    """The model's tensors changed."""

    def spoil(folder: Path) -> None:
        path = folder / "model" / "model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def saved(name: str, value: Any) -> Callable[[Path], Any]:
    """What `torch.save` writes."""

    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(value, folder / name)

    return spoil


def both(*spoils: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """One after the other."""

    def spoil(folder: Path) -> None:
        for each in spoils:
            each(folder)

    return spoil


def link(name: str, target: str) -> Callable[[Path], Any]:
    return lambda folder: os.symlink(target, folder / name)


def folder_of(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).mkdir()


def fifo(name: str) -> Callable[[Path], Any]:
    return lambda folder: os.mkfifo(folder / name)


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pwned"),))


def ones(value: complex = 1.0, shape: tuple[int, ...] = (2, 4), **options: Any) -> torch.Tensor:
    tensor = torch.ones(shape, **options)
    tensor[0, 0] = value
    return tensor
