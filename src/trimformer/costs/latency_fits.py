"""Chooses the widths to measure and fits smooth latencies to the measurements."""

from collections.abc import Sequence

import numpy as np
from sklearn.isotonic import IsotonicRegression

from trimformer.costs.cost_tables import Floats
from trimformer.costs.timing import Timing
from trimformer.models import Kind
from trimformer.options.choices import Backend

PASSES = 4  # drawn together, from narrow to wide


def first_grid(kind: Kind, units: int, backend: Backend) -> list[int]:
    """Returns the first widths to measure: none, one, all, and even steps between (multiples of 32 for neurons)."""
    parts = 12 if backend == "eager" else 6
    step = max(1, units // parts) if kind == "attention" else max(32, units // parts // 32 * 32)
    return sorted({0, min(1, units), *range(step, units, step), units})


def monotone(timings: Sequence[Timing]) -> Floats:
    """Returns medians that do not fall with more units, unless a measurement's interval rules that out."""
    medians = np.array([t.median for t in timings])
    weights = [t.count for t in timings]
    fit = IsotonicRegression().fit_transform(np.arange(len(medians)), medians, sample_weight=weights)
    significant = np.array([not t.low <= f <= t.high and t.count >= PASSES for t, f in zip(timings, fit, strict=True)])
    return np.where(significant, medians, fit)


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Fits an intercept and a slope, neither negative, by least squares of the relative error."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    design = np.stack([1 / b, a / b], axis=1)
    intercept, slope = np.linalg.lstsq(design, np.ones(len(b)), rcond=None)[0]
    if intercept < 0 or slope <= 0:
        return 0.0, float((a / b).sum() / np.square(a / b).sum())
    return float(intercept), float(slope)
