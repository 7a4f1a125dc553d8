"""`trimformer reproduce`: runs the command recorded in `results.json` again and compares the results."""

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

DIFFERS = 4  # exit code if the bytes of masks or weights differ


def run(arguments: argparse.Namespace) -> int:
    """Runs the recorded command, prints what differs, and returns the exit code."""
    record = read_record(arguments.results)
    masks, weights = Tensors.masks(record.folder), Tensors.weights(record.folder)  # errors show before the long run
    with _output_directory(arguments.output) as output:
        with redirect_stdout(io.StringIO()):  # its table names a folder that may be temporary
            prune.run(parse_command(record, output))
        if not is_main():
            return 0
        again = read_record(output)
        differences = {
            "masks": masks.differences(Tensors.masks(output)),
            "weights": weights.differences(Tensors.weights(output)),
            **{name: figure_differences(record.figures[name], again.figures[name]) for name in ("scores", "sizes")},
            "machine": figure_differences(record.machine, again.machine),
        }
    same = not differences["masks"] and not differences["weights"]
    print(format_differences(differences))
    print(f"\n{'the same' if same else 'not the same'} masks and weights, byte for byte")
    if arguments.output is not None:
        print(f"written to {arguments.output}")
    return 0 if same else DIFFERS


@contextmanager
def _output_directory(output: str | None) -> Iterator[Path]:
    """Yields the output directory of the second run: `output`, or a temporary one."""
    if output is not None:
        yield Path(output)
        return
    with temporary_directory() as temporary:
        yield temporary / "again"


def figure_differences(then: Any, now: Any, name: str = "") -> list[str]:
    """Returns a line for each figure that differs, named by its keys; descends into mappings.

    Args:
        then: figure or mapping of the recorded run.
        now: figure or mapping of the second run.
        name: keys that lead to the figure.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            line
            for key in dict.fromkeys([*then, *now])
            for line in figure_differences(then.get(key), now.get(key), f"{name} {key}".lstrip())
        ]
    if str(then) == str(now):  # as texts, NaN equals NaN
        return []
    texts = [f"{value:.6g}" if isinstance(value, float) else str(value)[:100] for value in (then, now)]
    texts = texts if texts[0] != texts[1] else [str(then), str(now)]
    return [f"{name} {texts[0]} then, {texts[1]} now"]


def format_differences(differences: Mapping[str, list[str]]) -> str:
    """Formats the differences of each kind of result as a paragraph."""
    lines = []
    for name, kind_lines in differences.items():
        first, *rest = kind_lines or ["the same"]
        lines += [f"{name:<8} {one_line(first)}", *(f"{'':<8} {one_line(line)}" for line in rest)]
    return "\n".join(lines)
