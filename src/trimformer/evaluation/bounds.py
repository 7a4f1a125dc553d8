"""Upper confidence bounds of a mean divergence and of the drop of a score.

Both add a margin for what the samples may lack: samples worse than all drawn, or one more lost prediction.
`benchmarks/coverage.py` measures how often the bounds hold.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import t

from trimformer.costs.cost_tables import Floats

CONFIDENCE = 0.95
GROUPS = 50  # of the jackknife
UNSEEN = 1.5  # divergence of samples that were not drawn, as a multiple of the largest one that was

# The models that may be tested, in this order: exponent of the predicted budget, allowed probability of error. The
# exponents do not depend on the test samples, so the probability of accepting any bad model is at most the sum.
TRIALS = ((1.0, 0.04), (0.5, 0.0075), (0.25, 0.0025))


def quantile(alpha: float, degrees: int = GROUPS - 1) -> float:
    """Returns the upper quantile of Student's t distribution that is exceeded with probability `alpha`."""
    return float(t.ppf(1 - alpha, degrees))


def mean_bound(values: Floats, alpha: float = 1 - CONFIDENCE) -> float:
    """Returns an upper bound of the mean of skewed values, which is too low with probability `alpha`.

    A t bound alone is too low on skewed values: rare large values carry much of the mean, and most draws lack some of
    them. What these may add is added; see `unseen`.

    Args:
        values: independent values, at least two.
        alpha: allowed probability of error.
    """
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) + quantile(alpha, len(values) - 1) * error + unseen(values, len(values), alpha)


def unseen(values: Floats, samples: int, alpha: float) -> float:
    """Bounds what kinds of samples that did not occur can add to a mean.

    Whatever does not occur among n samples is less than -ln(alpha) / n of all, with probability 1 - alpha (for 5 %, the
    rule of three). Each such sample is taken as `UNSEEN` times the largest value.

    Args:
        values: values like those that were drawn.
        samples: number of samples that are drawn.
        alpha: allowed probability of error.
    """
    return UNSEEN * max(float(values.max()), 0.0) * -math.log(alpha) / samples


def drop_bound(drop: float, error: float, largest_change: float, alpha: float = 1 - CONFIDENCE) -> float:
    """Returns an upper bound of the drop of a score, which is too low with probability `alpha`.

    For the mean of n samples this is Wilson's one-sided bound, with 1 / n as the largest change.

    Args:
        drop: measured drop, as a fraction.
        error: its standard error.
        largest_change: the most that one sample can change the score.
        alpha: allowed probability of error.
    """
    z = quantile(alpha)
    return drop + z**2 * largest_change / 2 + z * math.sqrt(error**2 + (z * largest_change / 2) ** 2)


def leave_out(estimate: Callable[[Sequence[int]], float], clusters: Sequence[int], groups: int = GROUPS) -> Floats:
    """Returns an estimate [1 + groups]: over all samples, and without each group in turn.

    Args:
        estimate: function of the indices of samples.
        clusters: cluster of each sample, numbered from 0. Samples of one cluster are left out together.
        groups: number of groups.
    """
    order, group_of = np.arange(len(clusters)), np.asarray(clusters) % groups
    remaining = [order, *(order[group_of != group] for group in range(groups))]
    return np.array([estimate(indices.tolist()) for indices in remaining])


def jackknife(estimates: Floats) -> tuple[float, float]:
    """Returns the estimate over all samples and its delete-group jackknife standard error.

    Args:
        estimates: see `leave_out`; may be a difference of two of its results.
    """
    without = estimates[1:]
    share = (len(without) - 1) / len(without)
    return float(estimates[0]), math.sqrt(share * float(np.square(without - without.mean()).sum()))


def cluster_means(values: Floats, clusters: Sequence[int]) -> Floats:
    """Returns one independent value per cluster, [clusters], with the same mean as the values.

    Args:
        values: one value per sample.
        clusters: cluster of each sample.
    """
    _, places, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    mean = values.mean()
    sums = np.bincount(places, values - mean)
    return np.asarray(mean + sums * len(counts) / counts.sum(), dtype=np.float64)
