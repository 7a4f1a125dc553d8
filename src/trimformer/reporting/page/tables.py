"""The tables of the pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from trimformer.reporting.page import numbers
from trimformer.reporting.page.numbers import Shown

SIZES = (("MACs, G", "macs", 1e9), ("parameters, M", "parameters", 1e6), ("weights, MB", "bytes", 1e6))


@dataclass(frozen=True)
class Row:
    """A line of the table: what, of both models, and the change in words."""

    label: str
    dense: Shown | None
    pruned: Shown
    change: str = ""


def rows(figures: Mapping[str, Any]) -> list[Row]:
    """Every score and size, dense and pruned; empty where nothing was measured."""
    return [*_score_rows(figures), *_size_rows(figures), *_latency_rows(figures)]


def _score_rows(figures: Mapping[str, Any]) -> list[Row]:
    scores = figures["scores"]
    if scores is None:
        return []
    found = []
    for name in numbers.score_names(scores["dense"]):
        dense, pruned = (numbers.score(scores[side], name) for side in ("dense", "pruned"))
        found.append(Row(numbers.score_label(name), dense, pruned, numbers.points(dense.value, pruned.value)))
    found.append(Row(numbers.distance_label(figures["task"]["problem"]), None, numbers.distance(scores["divergence"])))
    if scores["neighbours"] is not None:
        found.append(Row("nearest neighbours kept", None, numbers.share(scores["neighbours"])))
    return found


def _size_rows(figures: Mapping[str, Any]) -> list[Row]:
    sizes, vocabulary = figures["sizes"], figures["vocabulary"]
    if sizes is None:
        return []
    found = []
    for label, key, scale in SIZES:
        dense, pruned = sizes["dense"][key], sizes["pruned"][key]
        shown = numbers.scaled(dense, scale), numbers.scaled(pruned, scale, dense)
        found.append(Row(label, *shown, numbers.share(pruned / dense).text))
    if vocabulary is not None:
        left, of = vocabulary["tokens"], vocabulary["of"]
        counts = Shown(of, f"{of:,}"), Shown(left, f"{left:,}")
        found.append(Row("vocabulary, tokens", *counts, numbers.share(left / of).text))
    return found


def _latency_rows(figures: Mapping[str, Any]) -> list[Row]:
    latency, budget = figures["latency"], figures["budget"]
    if latency is None:
        return []
    dense, pruned = numbers.timing(latency["dense_ms"]), numbers.timing(latency["pruned_ms"])
    found = [Row("latency, ms", dense, pruned, numbers.faster(dense.value, pruned.value))]
    for key, word in (("asked_ms", "asked"), ("estimated_ms", "estimated")):
        if budget[key] is not None:
            found.append(Row(f"latency {word}, ms", None, Shown(budget[key], f"{budget[key]:.2f}")))
    return found


def notes(figures: Mapping[str, Any]) -> list[str]:
    """What the table does not say of itself."""
    samples, latency = figures["samples"], figures["latency"]
    data = figures["arguments"].get("data")
    of = f" of {PurePath(data).name}" if data else ""
    found = [f"Scores on {samples['evaluation']:,} samples{of}, ± half a 95 % interval."]
    found.append(f"MACs of one sample of length {samples['seq_len']:.1f}.")
    if latency is not None:
        ratio = latency["ratio"]
        found += [
            f"Latency: median and its 95 % interval over {latency['dense_ms']['count']} turns of "
            f"{latency['batch_size']} samples of length {latency['seq_len']}, on {figures['machine']['device']}, "
            f"backend {latency['backend']}.",
            f"Turn by turn, pruned takes {100 * ratio['low']:.1f} to {100 * ratio['high']:.1f} % of dense.",
        ]
    return found


def serving(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table of ONNX files; None where there are none."""
    files = figures["serving"]
    if not files:
        return None
    name = next(iter(numbers.score_names(files[0]["scores"])), None)
    lines = [
        {
            "name": each["name"],
            "cells": [
                *([numbers.score(each["scores"], name)] if name else []),
                numbers.distance(each["divergence"]),
                *([numbers.share(each["neighbours"])] if each["neighbours"] is not None else []),
                numbers.scaled(each["bytes"], 1e6),
                numbers.timing(each["ms"]),
                numbers.speedup(each["speedup"]),
            ],
        }
        for each in files
    ]
    head = [
        *([numbers.score_label(name)] if name else []),
        numbers.distance_label(figures["task"]["problem"]),
        *(["neighbours kept"] if files[0]["neighbours"] is not None else []),
        "file, MB",
        "a batch, ms",
        "speed-up",
    ]
    return {"head": head, "rows": lines}


def stages(cost: Mapping[str, Any]) -> list[tuple[str, Shown, Shown | None, float]]:
    """(stage, seconds, forward passes, share of the longest) of each stage."""
    longest = max(cost["seconds"].values(), default=0.0) or 1.0
    passes = cost["forward_passes"]
    return [
        (
            stage,
            Shown(seconds, f"{seconds:.1f}"),
            Shown(passes[stage], f"{passes[stage]:.1f}") if stage in passes else None,
            seconds / longest,
        )
        for stage, seconds in cost["seconds"].items()
    ]


def made(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, how) of the run."""
    machine, samples, task = figures["machine"], figures["samples"], figures["task"]
    memory = ", ".join(f"{name} {value:.1f} GB" for name, value in figures["cost"]["peak_gb"].items())
    processes = f", {machine['processes']} processes" if machine["processes"] > 1 else ""
    blank = f", {samples['blank_dropped']:,} rows without a text left out" if samples["blank_dropped"] else ""
    return [
        ("task", f"{task['name']} ({task['problem'].replace('_', ' ')})"),
        ("method", ", ".join(f"{key} {value}" for key, value in figures["method"].items())),
        ("calibrated on", f"{samples['calibration']:,} samples{blank}"),
        ("machine", machine["device"] + processes),
        ("peak memory", memory),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
    ]
