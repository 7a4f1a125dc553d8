"""Budgets and quality targets of `trimformer.prune`: kept, missed, or refused."""

import logging
import re

import pytest

from tests.commands import fitting_rows, problem_model, problem_rows
from tests.conftest import make_batch, make_model, make_rows, make_table, make_tokenizer
from tests.pruning import FINE, prune, same
from trimformer import METHODS, LatencyOptions, Method, TrimformerError
from trimformer.costs.cost_tables import linear_costs
from trimformer.costs.macs import model_macs
from trimformer.costs.timing import Timing
from trimformer.data.batches import make_batches
from trimformer.data.tasks import task_of
from trimformer.evaluation.latency_target import ComparedLatency
from trimformer.models import find_sublayers
from trimformer.pruner import Pruner
from trimformer.session import setup
from trimformer.session.draw_samples import draw_samples


@pytest.mark.parametrize("constraint", [0.9, 0.5, 0.21, 0.08])
@pytest.mark.parametrize("method", FINE)
def test_the_budget_holds_and_the_masks_match_the_pruned_model(method, constraint):
    model = problem_model("single_label")
    result = prune(model, method=method, constraint=constraint)
    widths = [s.num_units for s in find_sublayers(result.model)]
    assert widths == [int(mask.count_nonzero()) for mask in result.masks]
    dense = model_macs(find_sublayers(model), result.samples.seq_len)
    assert 0 < result.sizes["pruned"].macs == model_macs(find_sublayers(result.model), result.samples.seq_len)
    assert result.sizes["pruned"].macs <= constraint * dense * (1 + 1e-9)


# Latency as the budget, by a table that was made by hand: what a tiny model takes is noise.
def prune_to_latency(table=None, **options):
    options = {"constraint": 0.5, "model": problem_model("single_label"), **options}
    table = table or make_table(options["model"], elsewhere=True)
    return prune(metric="latency", latency=LatencyOptions(2, 8, table=table), **options)


def see(monkeypatch, comparison):
    """Gives a comparison wherever the two models are timed: by the target, and by the report."""
    for module in ("evaluation.latency_target", "session.measure"):
        monkeypatch.setattr(f"trimformer.{module}.compare_latency", lambda *_: comparison)


@pytest.mark.parametrize("constraint", [0.8, 0.5, 0.25])
@pytest.mark.parametrize("method", [name for name in FINE if name != "kprune"])
def test_a_latency_is_kept_to_by_every_method(method, constraint):
    model = problem_model("single_label")
    result = prune_to_latency(model=model, method=method, constraint=constraint)
    budget, latency = result.budget, result.latency
    assert 0 < budget.estimated_ms <= constraint * make_table(model).costs(model).dense
    assert budget.asked_ms == pytest.approx(constraint * latency.dense_ms.median)
    assert latency.pruned_ms.low <= latency.pruned_ms.median <= latency.pruned_ms.high
    assert not budget.corrected


@pytest.mark.parametrize("allocation", ["dp", "global", "uniform"])
def test_milliseconds_are_kept_to_by_every_allocation(allocation):
    budget = prune_to_latency(constraint=None, latency_ms=10, method=Method("magnitude", allocation, "none")).budget
    assert budget.asked_ms == 10
    assert 6 < budget.estimated_ms <= 10


def test_a_table_measured_on_this_machine_is_checked_by_measuring(monkeypatch):
    seen = Timing(8.0, 7.9, 8.1, 9)
    comparison = ComparedLatency(Timing(10.0, 9.9, 10.1, 9), seen, Timing(0.8, 0.79, 0.81, 9))
    see(monkeypatch, comparison)
    model = problem_model("single_label")
    kept = prune_to_latency(make_table(model), model=model, constraint=0.806)
    assert not kept.budget.corrected
    slow = prune_to_latency(make_table(model), model=model, constraint=0.7)
    assert slow.budget.corrected
    assert slow.budget.estimated_ms <= 0.7 * 10
    units = [sum(s.num_units for s in find_sublayers(result.model)) for result in (slow, kept)]
    assert units[0] < units[1]


def test_a_missed_latency_target_is_logged_and_the_first_selection_stays(monkeypatch, caplog):
    # Nothing is gained by pruning: all is overhead.
    dense = Timing(10.0, 9.9, 10.1, 9)
    comparison = ComparedLatency(dense, Timing(9.99, 9.9, 10.1, 9), Timing(0.999, 0.99, 1.0, 9))
    see(monkeypatch, comparison)
    model = problem_model("single_label")
    first = prune_to_latency(make_table(model, elsewhere=True), model=model, constraint=0.3)
    with caplog.at_level(logging.WARNING, "trimformer"):
        result = prune_to_latency(make_table(model), model=model, constraint=0.3)
    assert "the last selection is kept, because a smaller one is not possible" in caplog.text
    assert same(result.masks, first.masks)
    assert result.budget.estimated_ms == pytest.approx(10.0)  # the slower end of what was seen


def test_a_table_of_a_shape_gives_the_report_its_shape():
    model = problem_model("single_label")
    table = make_table(model, elsewhere=True)
    table.setting = {"batch_size": 1, "seq_len": 5, "backend": "eager"}
    options = LatencyOptions(table=table, any_table=True)
    latency = prune(model, metric="latency", latency=options).latency
    assert (latency.batch_size, latency.seq_len) == (1, 5)


def test_another_shape_than_the_tables_is_refused():
    model = problem_model("single_label")
    with pytest.raises(TrimformerError, match="measured with batch_size 2, not 1"):
        prune(model, metric="latency", latency=LatencyOptions(batch_size=1, table=make_table(model)))


def test_an_unknown_metric_is_refused():
    with pytest.raises(TrimformerError, match="metric 'macs' is unknown; known are mac, parameters, latency"):
        prune(metric="macs")


@pytest.mark.parametrize("allocation", ["dp", "global", "uniform"])
def test_an_unreachable_latency_names_one_that_can_be_reached(allocation):
    method = Method("magnitude", allocation, "none")
    with pytest.raises(TrimformerError, match=r"smallest reachable is .* ms\)") as error:
        prune_to_latency(constraint=None, latency_ms=1.0, method=method)
    smallest = float(re.search(r"\(([\d.]+) ms\)", str(error.value))[1])
    budget = prune_to_latency(constraint=None, latency_ms=smallest, method=method).budget
    assert 1.0 < budget.estimated_ms <= smallest


def test_budgets_that_make_no_sense_are_refused():
    for words, options in {
        "already; ask for less": {"constraint": None, "latency_ms": 1e6},
        "either a constraint or a latency": {"latency_ms": 5.0},
        "give a positive number of milliseconds": {"constraint": None, "latency_ms": 0.0},
        "'kprune' does not support latency budgets": {"method": "kprune"},
    }.items():
        with pytest.raises(TrimformerError, match=words):
            prune_to_latency(**options)
    with pytest.raises(TrimformerError, match="needs the metric 'latency'"):
        prune(constraint=None, metric="mac", latency_ms=5.0)


def test_a_table_of_another_model_is_refused():
    with pytest.raises(TrimformerError, match="48 units"):
        prune_to_latency(make_table(problem_model("single_label")), model=problem_model("tokens", intermediate_size=48))
    with pytest.raises(TrimformerError, match="dtype 'float16'"):
        prune_to_latency(make_table(problem_model("single_label"), dtype="float16"))


@pytest.mark.parametrize("constraint", [0, -1, 1.5, float("nan"), float("inf")])
def test_a_constraint_outside_of_the_range_is_an_error(constraint):
    with pytest.raises(TrimformerError, match=r"outside \(0, 1\]"):
        prune(constraint=constraint)


@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_reachable_constraint_is_named_and_can_be_reached(method):
    with pytest.raises(TrimformerError, match="smallest reachable is") as error:
        prune(method=method, constraint=1e-6)
    smallest = float(str(error.value).split()[-1])
    assert prune(method=method, constraint=smallest * 1.05).sizes["pruned"].macs > 0


def prune_to_quality(problem="single_label", count=400, **options):
    model = problem_model(problem)
    return prune(model, fitting_rows(model, problem, count), None, **{"num_samples": 60, **options})


@pytest.mark.parametrize(("problem", "target"), [
    ("single_label", {"max_drop": 15.0}), ("tokens", {"max_drop": 15.0}), ("embedding", {"max_divergence": 0.2}),
])  # fmt: skip
def test_the_smallest_model_that_passes_the_quality_test_is_returned(problem, target):
    result = prune_to_quality(problem, **target)
    report, final = result.target, result.target.tried[-1]
    assert report.bound == final.bound <= report.asked == next(iter(target.values()))
    assert final.constraint == result.budget.constraint
    assert result.budget.kept <= result.budget.constraint
    assert all(v.constraint >= final.constraint for v in report.tried if v.keeps)
    assert 100 < report.samples <= 120  # rows that share a text count once


def test_quality_rows_are_used_neither_for_calibration_nor_for_scores(monkeypatch):
    seen = {}
    monkeypatch.setattr(setup, "draw_samples", lambda *a, **k: seen.setdefault("data", draw_samples(*a, **k)))
    prune_to_quality(max_divergence=10.0)
    data = seen["data"]
    judged, scored = (set(rows.numbers) for rows in (data.judged_scorer.rows, data.scored.scorers[0].rows))
    assert not judged & scored
    assert len(judged) == 120
    assert len(data.calibration.features) == 60


def test_separate_rows_can_test_the_quality():
    rows = problem_rows("single_label", 150)
    result = prune_to_quality(max_divergence=1.0, judge_dataset=rows)
    assert result.target.samples == 150
    assert result.samples.calibration == 60
    unlabelled = [{"sentence": row["sentence"]} for row in rows]
    with pytest.raises(TrimformerError, match="needs labels"):
        prune_to_quality(max_drop=10.0, judge_dataset=unlabelled)
    with pytest.raises(TrimformerError, match="judge_dataset is only used with"):
        prune(judge_dataset=rows)


def test_an_unreachable_quality_is_an_error():
    with pytest.raises(TrimformerError, match="no model was found that keeps the divergence within 1e-06"):
        prune_to_quality("embedding", max_divergence=1e-6)


def test_targets_that_make_no_sense_are_refused():
    for words, options in {
        "max_drop and max_divergence are two targets": {"max_drop": 1.0, "max_divergence": 0.1},
        "either a budget or the quality": {"max_drop": 1.0, "latency_ms": 4.0},
        "max_drop is -1.0; give a number above 0": {"max_drop": -1.0},
        "below what float32 can tell": {"max_divergence": 1e-12},
        "test samples .* too few to promise a drop of 0.1 points .* give at least 2811": {"max_drop": 0.1},
    }.items():
        with pytest.raises(TrimformerError, match=words):
            prune_to_quality(**options)
    unlabelled = [{"sentence": row["sentence"]} for row in problem_rows("single_label", 400)]
    with pytest.raises(TrimformerError, match="needs labels"):
        prune(problem_model("single_label"), unlabelled, None, max_drop=4.0, num_samples=60)


@pytest.mark.parametrize("constraint", [0.0, -1.0, 2.0, float("nan")])
def test_the_pruner_refuses_what_is_no_share(constraint):
    model = make_model()
    batches = make_batches(task_of(model, make_rows()).encode(make_rows(), make_tokenizer(), model.config),
                           make_tokenizer(), 32)  # fmt: skip
    for method in ("obs", "kprune"):
        with pytest.raises(TrimformerError, match=r"constraint is .*give a number above 0 to 1"):
            Pruner(model, batches, METHODS[method])(linear_costs(find_sublayers(model), "mac", 8), constraint)
    with pytest.raises(TrimformerError, match="leaves no unit"):
        Pruner(model, batches, METHODS["kprune"])(linear_costs(find_sublayers(model), "mac", 8), 1e-9)


def test_the_pruner_refuses_what_is_no_method_and_prunes_to_no_budgets():
    model, batch = make_model(), make_batch()
    with pytest.raises(TrimformerError, match="method is 'obs'; give a trimformer"):
        Pruner(model, [batch], "obs")
    for multiple in (0, -4, 1.5):
        with pytest.raises(TrimformerError, match="neuron_multiple is"):
            Pruner(model, [batch], METHODS["obs"], neuron_multiple=multiple)
    with pytest.raises(TrimformerError, match="no grouped-query attention"):
        Pruner(model, [batch], Method(query_heads=True))
    assert Pruner(model, [batch], METHODS["obs"]).prune_all([]) == []


def test_a_latency_that_a_quality_found_is_not_missed(monkeypatch):
    monkeypatch.setattr("trimformer.evaluation.latency_target.LatencyTarget.misses", lambda *_: True)
    options = {"metric": "latency", "latency": LatencyOptions(batch_size=2, seq_len=6), "num_samples": 100}
    rows = [{**row, "sentence": f"{row['sentence']} {i}"} for i, row in enumerate(problem_rows("single_label", 400))]
    found = prune(rows=rows, constraint=None, max_divergence=1.0, **options)
    assert not found.budget.missed
    assert found.budget.asked_ms is None
