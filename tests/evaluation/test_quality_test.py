import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.commands import problem_model, problem_rows
from tests.conftest import make_tokenizer
from trimformer.data.tasks import task_of
from trimformer.errors import TrimformerError
from trimformer.evaluation.quality_test import QualityTest, jackknife, leave_out, upper_bound
from trimformer.evaluation.scores import Scorer
from trimformer.options.quality_target import QualityTarget


def judge(target, problem="single_label", rows=300, seed=0):
    model = problem_model(problem, seed=seed)
    examples = problem_rows(problem, rows)
    return QualityTest(
        target, Scorer("judged", examples, task_of(model, examples), model, make_tokenizer()), model
    ), model


@given(st.integers(60, 400), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_of_a_mean_the_jackknife_gives_the_standard_error_of_the_mean(samples, seed):
    values = np.random.default_rng(seed).normal(size=samples)
    estimate, error = jackknife(leave_out(lambda kept: float(values[kept].mean()), samples, groups=samples))
    assert estimate == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(samples))


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.01, 0.05])
@pytest.mark.parametrize("samples", [300, 1000, 4000])
def test_the_bound_holds_as_often_as_it_says(samples, rate):
    # Every loss is one of `rate`: the bound must lie above the truth in some 95 % of all draws, counted exactly.
    losses = np.arange(samples + 1)
    shares = losses / samples
    bounds = [upper_bound(p, math.sqrt(p * (1 - p) / samples), samples) for p in shares]
    covered = binom.pmf(losses, samples, rate)[np.array(bounds) >= rate].sum()
    assert covered > 0.93


@pytest.mark.parametrize("problem", ["single_label", "regression", "tokens", "span", "multi_label"])
def test_a_model_does_not_drop_below_itself_but_is_not_believed_beyond_the_samples(problem):
    rules, model = judge(QualityTarget("drop", 2.0), problem)
    verdict = rules(model, 1.0)
    assert verdict.measured == 0
    assert 0 < verdict.bound <= 2.0
    assert verdict.keeps


def test_a_model_of_other_answers_is_found_out():
    rules, model = judge(QualityTarget("drop", 2.0))
    with torch.no_grad():
        model.classifier.weight.neg_()
        model.classifier.bias.neg_()
    verdict = rules(model, 0.5)  # by chance it may score the same, and is still not to be trusted
    assert verdict.bound > max(5, verdict.measured)
    assert not verdict.keeps


def test_a_divergence_needs_no_labels():
    model = problem_model("embedding")
    rows = problem_rows("embedding", 120)
    rules = QualityTest(
        QualityTarget("divergence", 0.1), Scorer("judged", rows, task_of(model, rows), model, make_tokenizer()), model
    )
    assert rules(model, 1.0).keeps
    assert not rules(problem_model("embedding", seed=1), 0.5).keeps


def test_targets_that_promise_nothing_are_refused():
    for words, make in {
        "max_drop is -1.0; give a number above 0": lambda: QualityTarget("drop", -1.0),
        "max_divergence is nan": lambda: QualityTarget("divergence", math.nan),
        "max_drop is 100.0; give": lambda: QualityTarget("drop", 100.0),
        "it takes 282 at least": lambda: judge(QualityTarget("drop", 1.0), rows=200),
        "needs labels": lambda: judge(QualityTarget("drop", 1.0), "embedding"),
    }.items():
        with pytest.raises(TrimformerError, match=words):
            make()
