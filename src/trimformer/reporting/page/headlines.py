"""The headline figures at the top of a page."""

from dataclasses import dataclass

from trimformer.reporting import figures
from trimformer.reporting.score_table import others_label
from trimformer.results import PruningResult


@dataclass(frozen=True)
class Headline:
    """A figure in large type at the top of a page.

    Attributes:
        label: name of the figure.
        value: its text, in large type.
        unit: follows the value in small type.
        detail: a line below.
        fraction: length of a bar below, from 0 to 1; None for no bar.
    """

    label: str
    value: str
    unit: str
    detail: str
    fraction: float | None = None


def headlines(result: PruningResult) -> list[Headline]:
    """Returns the quality, speed and size of a pruned model, as far as they were measured."""
    return [*_quality(result), *_speed(result), *_sizes(result)]


def _quality(result: PruningResult) -> list[Headline]:
    if result.scores is None:
        return []
    names = figures.score_names(result.scores.dense)
    if names:
        main = result.task.score
        name = main if main in names else names[0]
        dense, pruned = (figures.score(scores, name) for scores in (result.scores.dense, result.scores.pruned))
        label, _, unit = figures.score_label(name).partition(", ")
        change = figures.score_change(name, dense.value, pruned.value, result.change_ci95.get(name))
        return [Headline(label, pruned.text, unit, f"dense {dense.text}, change {change}")]
    divergence, agreement = figures.divergence(result.scores.divergence).text, result.agreement
    if agreement is not None:
        value, unit = figures.share(agreement.kept).text.split(" ")
        detail = f"{figures.divergence_label(result.task.problem)} {divergence}"
        if agreement.others is not None:
            detail = f"{figures.share(agreement.others).text} {others_label(agreement).strip()}; {detail}"
        return [Headline("predictions kept", value, unit, detail)]
    detail = "0 where outputs are the same"
    if result.scores.neighbours is not None:
        detail = f"{figures.share(result.scores.neighbours).text} of nearest neighbours kept"
    label = figures.divergence_label(result.task.problem)
    return [Headline(label, divergence, "", detail)]


def _speed(result: PruningResult) -> list[Headline]:
    if result.latency is None:
        return []
    dense, pruned = result.latency.dense_ms.median, result.latency.pruned_ms.median
    speed, word = figures.speed_change(dense, pruned).split(" ")
    detail = f"{figures.scaled(pruned).text} ms, dense {figures.scaled(dense).text} ms"
    return [Headline("speed", speed, word, detail, min(1.0, pruned / dense))]


def _sizes(result: PruningResult) -> list[Headline]:
    if result.sizes is None:
        return []
    dense, pruned = result.sizes["dense"], result.sizes["pruned"]
    cards = []
    for label, before, after, unit, scale in (
        ("weights", dense.bytes, pruned.bytes, "MB", 1e6),
        ("MACs a sample", dense.macs, pruned.macs, "G", 1e9),
    ):
        detail = f"{figures.share(after / before).text} of {figures.scaled(before, scale).text} {unit}"
        cards.append(Headline(label, figures.scaled(after, scale, before).text, unit, detail, after / before))
    return cards
