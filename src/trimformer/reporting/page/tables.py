"""Texts and small tables of the pages."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trimformer.reporting.cards.source import last_part, shorten_command
from trimformer.reporting.figures import Figure
from trimformer.reporting.score_table import score_sentences
from trimformer.results import PruningResult


def notes(result: PruningResult) -> list[str]:
    """Explains how the figures of the score table were measured."""
    samples, latency = result.samples, result.latency
    unit = "" if result.task.problem == "language" else " times 100"
    lines = [
        f"Scores{unit}, on {samples.scored_on}, ± half a 95 % interval, beside a change that of the paired difference.",
        f"MACs of one sample of length {samples.seq_len:.1f}.",
        *score_sentences(result),
    ]
    if latency is not None:
        lines += [
            f"Latency: median and its 95 % interval over {latency.dense_ms.count} turns of "
            f"{latency.work}, on {result.machine.device}, backend {latency.backend}.",
            f"Turn by turn, pruned takes {100 * latency.ratio.low:.1f} to {100 * latency.ratio.high:.1f} % of dense.",
        ]
    return lines


def stages(seconds: Mapping[str, float], passes: Mapping[str, float]) -> list[tuple[str, Figure, Figure | None, float]]:
    """Returns (stage, seconds, forward passes, share of the longest stage) of each stage.

    Args:
        seconds: by stage.
        passes: forward passes by stage; a stage may be missing.
    """
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        (stage, _tenths(value), _tenths(passes[stage]) if stage in passes else None, value / longest)
        for stage, value in seconds.items()
    ]


def _file_name(path: Any) -> str:
    return last_part(path) if path else ""


def _tenths(value: float) -> Figure:
    return Figure(value, f"{value:.1f}")


def run_details(
    result: PruningResult, arguments: Mapping[str, Any], command: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Returns (name, text) of command, task, method, data, seed and machine.

    Args:
        result: of the run.
        arguments: of the run.
        command: words of the command line.
    """
    machine, samples, task = result.machine, result.samples, result.task
    memory = ", ".join(f"{name} {value:.1f} GB" for name, value in result.cost.peak_gb.items())
    processes = f", {machine.processes} processes" if machine.processes > 1 else ""
    blank = f", {samples.blank_dropped:,} rows without a text left out" if samples.blank_dropped else ""
    method: dict[str, Any] = asdict(result.method)
    named = [
        ("command", shorten_command(command)),
        ("data", _file_name(arguments.get("data") or arguments.get("data_dir"))),
        ("evaluation data", _file_name(arguments.get("eval_data"))),
        ("scored on", samples.scored_on),
        ("judged on", result.target.judged_on if result.target else ""),
        ("judge data", _file_name(arguments.get("judge_data"))),
        ("seed", "" if arguments.get("seed") is None else str(arguments["seed"])),
    ]
    return [
        *(pair for pair in named if pair[1]),
        ("task", f"{task.name} ({task.problem.replace('_', ' ')})"),
        *([("labels", task.labels)] if task.labels else []),
        ("method", ", ".join(f"{key} {value}" for key, value in method.items())),
        ("calibrated on", f"{samples.calibration:,} samples{blank}"),
        ("machine", machine.device + processes),
        ("peak memory", memory),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
    ]
