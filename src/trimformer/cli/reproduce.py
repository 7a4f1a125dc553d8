"""`trimformer reproduce`: the command that `results.json` records, run again, and what came out otherwise."""

import argparse
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from trimformer.cli import prune
from trimformer.cli.record import parse_command, read_record
from trimformer.cli.tensors import Tensors
from trimformer.errors import one_line
from trimformer.utils.distributed import is_main
from trimformer.utils.temp_dirs import temporary_directory

DIFFERS = 4  # exit code where masks or weights are not the same bytes


def run(arguments: argparse.Namespace) -> int:
    record = read_record(arguments.results)
    masks, weights = Tensors.masks(record.folder), Tensors.weights(record.folder)  # before the long work
    with _place(arguments.output) as output:
        with redirect_stdout(io.StringIO()):  # its table, of a folder that may be gone at the end
            prune.run(parse_command(record, output))
        if not is_main():
            return 0
        again = read_record(output)
        told = {
            "masks": masks.differences(Tensors.masks(output)),
            "weights": weights.differences(Tensors.weights(output)),
            **{name: figure_differences(record.figures[name], again.figures[name]) for name in ("scores", "sizes")},
            "machine": figure_differences(record.machine, again.machine),
        }
    same = not told["masks"] and not told["weights"]
    print(format_differences(told))
    print(f"\n{'the same' if same else 'not the same'} masks and weights, byte for byte")
    if arguments.output is not None:
        print(f"written to {arguments.output}")
    return 0 if same else DIFFERS


@contextmanager
def _place(output: str | None) -> Iterator[Path]:
    """Where the second run writes."""
    if output is not None:
        yield Path(output)
        return
    with temporary_directory() as temporary:
        yield temporary / "again"


def figure_differences(then: Any, now: Any, name: str = "") -> list[str]:
    """A line for each figure that is not the same, by its keys."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            line
            for key in dict.fromkeys([*then, *now])
            for line in figure_differences(then.get(key), now.get(key), f"{name} {key}".lstrip())
        ]
    told = [f"{value:.6g}" if isinstance(value, float) else str(value)[:100] for value in (then, now)]
    if str(then) == str(now):  # so that NaN is NaN
        return []
    told = told if told[0] != told[1] else [str(then), str(now)]
    return [f"{name} {told[0]} then, {told[1]} now"]


def format_differences(told: Mapping[str, list[str]]) -> str:
    """A paragraph for each kind of figure."""
    lines = []
    for name, differences in told.items():
        first, *rest = differences or ["the same"]
        lines += [f"{name:<8} {one_line(first)}", *(f"{'':<8} {one_line(line)}" for line in rest)]
    return "\n".join(lines)
