import numpy as np
import pytest
from scipy.stats import binomtest, sem, t

from trimformer.data.metrics import METRICS, confidence_interval

LABELS, PREDICTIONS = np.array([1, 1, 1, 0, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("accuracy", 6 / 8), ("f1", 2 / 3), ("macro_f1", (2 / 3 + 4 / 5) / 2), ("micro_f1", 6 / 8), ("matthews", 7 / 15)],
)
def test_class_metrics_equal_values_computed_by_hand(name, value):
    assert METRICS[name](PREDICTIONS, LABELS) == pytest.approx(value)


def test_multi_label_f1_equals_values_computed_by_hand():
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    predictions = np.array([[1, 1, 0], [0, 0, 1]])
    assert METRICS["micro_f1"](predictions, labels) == pytest.approx(4 / 6)
    assert METRICS["macro_f1"](predictions, labels) == pytest.approx((1 + 0 + 2 / 3) / 3)


def test_correlations_equal_values_computed_by_hand():
    predictions, labels = np.array([1.0, 2.0, 3.0, 10.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert METRICS["pearson"](predictions, labels) == pytest.approx(13 / np.sqrt(50 * 5))
    assert METRICS["spearman"](predictions, labels) == pytest.approx(0.8)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.filterwarnings("error")
def test_a_constant_prediction_has_correlation_zero(name):
    assert METRICS[name](np.full(4, 2.5), np.arange(4.0)) == 0.0


@pytest.mark.parametrize("name", ["f1", "macro_f1", "micro_f1", "matthews"])
@pytest.mark.filterwarnings("error")
def test_a_class_that_is_never_predicted_gives_a_finite_score(name):
    assert 0 <= METRICS[name](np.zeros(4, int), np.array([0, 0, 1, 1])) <= 0.5


def test_metrics_are_invariant_to_sample_order():
    order = np.random.default_rng(0).permutation(8)
    for metric in METRICS.values():
        assert metric(PREDICTIONS[order], LABELS[order]) == pytest.approx(metric(PREDICTIONS, LABELS))


def test_confidence_interval_is_students_and_shrinks_with_the_root_of_the_count():
    values = np.array([0.0, 0.5])
    low, high = t.interval(0.95, 1, loc=0.25, scale=sem(values))
    assert confidence_interval(values) == pytest.approx((high - low) / 2)
    wide, narrow = (confidence_interval(np.tile(values, n)) for n in (100, 400))
    assert wide / narrow == pytest.approx(2, rel=0.01)
    assert confidence_interval(np.array([0.5])) == 1.0


@pytest.mark.parametrize(("right", "count"), [(1, 1), (0, 1), (10, 10), (3, 10), (850, 1000)])
def test_the_interval_of_a_share_is_wilsons(right, count):
    interval = binomtest(right, count).proportion_ci(method="wilson")
    samples = np.arange(count) < right
    assert confidence_interval(samples) == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)
