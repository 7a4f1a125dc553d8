"""Formats figures for readers; terminal, report page and model card all use these functions."""

from collections.abc import Mapping
from dataclasses import dataclass

INTERVAL = "_ci95"  # ends the name of half a score's 95 % interval

_DIVERGENCES = {"regression": "squared error to dense", "embedding": "1 - cosine to dense"}

# Multiplied by 100 like fractions, but not percentages.
_NO_SHARES = ("pearson", "spearman", "matthews", "mrr@10", "ndcg@10")


@dataclass(frozen=True)
class Figure:
    """A value and its text.

    Attributes:
        value: as in results.json.
        text: the formatted value.
        interval: its 95 % interval as text; empty if there is none.
    """

    value: float
    text: str
    interval: str = ""


def score(scores: Mapping[str, float], name: str) -> Figure:
    """Formats a score times 100, or a perplexity, with half its 95 % interval if there is one."""
    half = scores.get(name + INTERVAL)
    scale = score_scale(name)
    return Figure(scores[name], f"{scale * scores[name]:.2f}", "" if half is None else f"±{scale * half:.2f}")


def is_perplexity(name: str) -> bool:
    """Returns whether a score is a perplexity, which is better if it is lower."""
    return name.endswith("perplexity")


def score_scale(name: str) -> float:
    """Returns the factor by which a score is shown: 100 for fractions, 1 for a perplexity."""
    return 1.0 if is_perplexity(name) else 100.0


def score_names(scores: Mapping[str, float]) -> list[str]:
    """Returns the names of the scores, without those of their intervals."""
    return [name for name in scores if not name.endswith(INTERVAL)]


def score_label(name: str) -> str:
    """Returns a score's name for readers, with its unit."""
    if is_perplexity(name):
        return name.replace("_", " ")
    unit = "× 100" if name.split("_")[-1] in _NO_SHARES else "%"
    return f"{name.replace('_', ' ')}, {unit}"


def divergence(value: float) -> Figure:
    """Formats a divergence; a value that rounding left below 0 is shown as 0."""
    return Figure(value, f"{max(0.0, value):.4f}")


def divergence_label(problem: str) -> str:
    """Names the divergence that is measured for a kind of output."""
    return _DIVERGENCES.get(problem, "KL to dense (nats)")


def share(value: float) -> Figure:
    """Formats a fraction as a percentage."""
    return Figure(value, f"{100 * value:.1f} %")


def small_share(value: float) -> Figure:
    """Formats a fraction that is often small as a percentage."""
    return Figure(value, f"{100 * value:.2f} %")


def count(value: int) -> Figure:
    """Formats a whole number with thousands separators."""
    return Figure(value, f"{value:,}")


def scaled(value: float, unit: float = 1.0, reference: float | None = None) -> Figure:
    """Formats a value in a unit: three digits after the point below one unit, else two.

    Args:
        value: to format.
        unit: to divide by.
        reference: the value that decides the number of digits; None for the value itself.
    """
    return Figure(value, f"{value / unit:.{_digits((value if reference is None else reference) / unit)}f}")


def _digits(value: float) -> int:
    return 3 if value < 1 else 2


def milliseconds(median: float, low: float, high: float, reference: float | None = None) -> Figure:
    """Formats a median latency in ms and its 95 % interval; for `reference` see `scaled`."""
    digits = _digits(median if reference is None else reference)
    return Figure(median, f"{median:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}")


def speedup(median: float, low: float, high: float) -> Figure:
    """Formats a speed-up and its 95 % interval."""
    return Figure(median, f"{median:.2f}x", f"{low:.2f} to {high:.2f}")


def speed_change(dense: float, pruned: float) -> str:
    """Describes the change of a latency, such as "1.50x faster"."""
    return f"{dense / pruned:.2f}x faster" if pruned <= dense else f"{pruned / dense:.2f}x slower"


def score_change(name: str, dense: float, pruned: float, half: float | None = None) -> str:
    """Formats the change of a score in points, with its sign and half the 95 % interval of the paired difference.

    The change of a perplexity is a ratio.
    """
    if is_perplexity(name):
        return f"{pruned / dense:.3f}x" + ("" if half is None else f" ±{half / dense:.3f}")
    text = f"{100 * (pruned - dense):+.2f}"
    text = text if float(text) else "+0.00"
    return text if half is None else f"{text} ±{100 * half:.2f}"


def significant(value: float | None) -> Figure | None:
    """Formats a value of any size with three significant digits, as in 1.23e-04; None stays None."""
    return None if value is None else Figure(value, f"{value:.2e}")


def target_value(kind: str, value: float) -> Figure:
    """Formats a value of a quality target: a drop in points, or a divergence."""
    return Figure(value, f"{value:.4f}" if kind == "divergence" else f"{value:.2f}")
