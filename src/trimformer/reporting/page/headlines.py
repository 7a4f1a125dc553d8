"""The figures that are read first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimformer.reporting.page import numbers


@dataclass(frozen=True)
class Headline:
    """A figure that is read first.

    Attributes:
        label: what it is.
        value: large.
        unit: after it, smaller.
        more: a line below.
        left: share that is left, for a bar; None without.
    """

    label: str
    value: str
    unit: str
    more: str
    left: float | None = None


def headlines(figures: Mapping[str, Any]) -> list[Headline]:
    """Of one pruned model: how good, how fast, how large; of what was not measured there is none."""
    scores, sizes, latency = figures["scores"], figures["sizes"], figures["latency"]
    found, name = [], _main_score(figures)
    if name is not None:
        dense, pruned = (numbers.score(scores[side], name) for side in ("dense", "pruned"))
        label, unit = numbers.score_label(name).rsplit(", ", 1)
        told = " ".join(filter(None, ("dense", dense.text, dense.more)))
        change = numbers.points(dense.value, pruned.value)
        found.append(Headline(label, pruned.text, unit, f"{told}, {change}"))
    elif scores is not None:
        value = numbers.distance(scores["divergence"]).text
        more = "0 where outputs are the same"
        if scores["neighbours"] is not None:
            more = f"{numbers.share(scores['neighbours']).text} of nearest neighbours kept"
        found.append(Headline(numbers.distance_label(figures["task"]["problem"]), value, "", more))
    if latency is not None:
        dense_ms, pruned_ms = latency["dense_ms"]["median"], latency["pruned_ms"]["median"]
        speed, word = numbers.faster(dense_ms, pruned_ms).split(" ")
        more = f"{pruned_ms:.1f} ms, dense {dense_ms:.1f} ms"
        found.append(Headline("speed", speed, word, more, min(1.0, pruned_ms / dense_ms)))
    if sizes is not None:
        for label, key, unit, scale in (("weights", "bytes", "MB", 1e6), ("MACs a sample", "macs", "G", 1e9)):
            dense_size, own = sizes["dense"][key], sizes["pruned"][key]
            value = numbers.scaled(own, scale, dense_size).text
            more = f"{numbers.share(own / dense_size).text} of {numbers.scaled(dense_size, scale).text} {unit}"
            found.append(Headline(label, value, unit, more, own / dense_size))
    return found


def _main_score(figures: Mapping[str, Any]) -> str | None:
    """The score that is read first: the task's, else the first there is."""
    names = numbers.score_names(figures["scores"]["dense"]) if figures["scores"] else []
    wanted = figures["task"]["score"]
    return wanted if wanted in names else next(iter(names), None)
