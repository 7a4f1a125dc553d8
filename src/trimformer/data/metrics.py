"""Metrics by name, computed from arrays of predictions and labels; values are fractions, not percentages."""

import math
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, pearsonr, spearmanr, t
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

Array = NDArray[np.generic]


def _correlation(measure: Callable[[Array, Array], tuple[float, float]], predictions: Array, labels: Array) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the correlation of a constant prediction is undefined: counted as 0
        value = float(measure(predictions, labels)[0])
    return value if np.isfinite(value) else 0.0


def _multi_label_f1(average: str) -> Callable[[Array, Array], float]:
    return lambda predictions, labels: float(f1_score(labels, predictions, average=average, zero_division=0))


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda predictions, labels: float(accuracy_score(labels, predictions)),
    "f1": lambda predictions, labels: float(f1_score(labels, predictions, zero_division=0)),
    "macro_f1": _multi_label_f1("macro"),
    "micro_f1": _multi_label_f1("micro"),
    "matthews": lambda predictions, labels: float(matthews_corrcoef(labels, predictions)),
    "pearson": lambda predictions, labels: _correlation(pearsonr, predictions, labels),
    "spearman": lambda predictions, labels: _correlation(spearmanr, predictions, labels),
}


def confidence_interval(per_sample: Array) -> float:
    """Half-width of the 95 % confidence interval of the mean over samples, which are between 0 and 1.

    That of shares is Wilson's, which is not 0 where all samples are alike; others have Student's t.
    """
    values = np.asarray(per_sample, dtype=np.float64)
    if len(values) and np.isin(values, (0, 1)).all():
        share = binomtest(int(values.sum()), len(values)).proportion_ci(0.95, method="wilson")
        return float(share.high - share.low) / 2
    if len(values) < 2:
        return 1.0
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
