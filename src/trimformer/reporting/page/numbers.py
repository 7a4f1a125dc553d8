"""Figures as a page shows them: each text carries the value it was made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimformer.results import DIVERGENCE

INTERVAL = "_ci95"

# Shown times 100 like shares, but no per cent.
_CORRELATIONS = ("pearson", "spearman", "matthews")


@dataclass(frozen=True)
class Shown:
    """A value and its text.

    Attributes:
        value: as it stands in results.json.
        text: as it is read.
        more: what follows in small, such as an interval.
    """

    value: float
    text: str
    more: str = ""


def score(scores: Mapping[str, float], name: str) -> Shown:
    """A score times 100, with half its 95 % interval where there is one."""
    half = scores.get(name + INTERVAL)
    return Shown(scores[name], f"{100 * scores[name]:.2f}", "" if half is None else f"±{100 * half:.2f}")


def score_names(scores: Mapping[str, float]) -> list[str]:
    """Scores without the widths of their intervals."""
    return [name for name in scores if not name.endswith(INTERVAL)]


def score_label(name: str) -> str:
    """A score's name for readers, with its unit."""
    unit = "× 100" if name.split("_")[-1] in _CORRELATIONS else "%"
    return f"{name.replace('_', ' ')}, {unit}"


def distance(value: float) -> Shown:
    """A divergence; rounding leaves some just below 0."""
    return Shown(value, f"{max(0.0, value):.4f}")


def distance_label(problem: str) -> str:
    """What a divergence measures."""
    return DIVERGENCE.get(problem, "KL to dense, nats")


def share(value: float) -> Shown:
    """A fraction in per cent."""
    return Shown(value, f"{100 * value:.1f} %")


def scaled(value: float, unit: float, like: float | None = None) -> Shown:
    """A value in a unit; as many digits as the value beside it."""
    digits = 3 if (value if like is None else like) / unit < 1 else 2
    return Shown(value, f"{value / unit:.{digits}f}")


def timing(found: Mapping[str, Any]) -> Shown:
    """A median in milliseconds with its 95 % interval."""
    return Shown(found["median"], f"{found['median']:.2f}", f"{found['low']:.2f} to {found['high']:.2f}")


def speedup(found: Mapping[str, Any]) -> Shown:
    """How many times faster, with its 95 % interval."""
    return Shown(found["median"], f"{found['median']:.2f}×", f"{found['low']:.2f} to {found['high']:.2f}")


def faster(dense: float, pruned: float) -> str:
    """Both latencies in words."""
    return f"{dense / pruned:.2f}× faster" if pruned <= dense else f"{pruned / dense:.2f}× slower"


def points(dense: float, pruned: float) -> str:
    """The change of a score in points, with its sign."""
    return signed(100 * (pruned - dense))


def signed(value: float) -> str:
    """A change with its sign."""
    text = f"{value:+.2f}"
    return text.replace("-", "−") if float(text) else "±0.00"


def small(value: float | None) -> Shown | None:
    """A value of any size in three digits; None stays."""
    return None if value is None else Shown(value, f"{value:.3g}".replace("-", "−"))
