import math

import pandas
import pytest
import torch

import trimformer
from tests.commands import problem_model, problem_rows, small_steps
from tests.conftest import make_table, make_tokenizer
from trimformer import LatencyOptions, Pruner, TrimformerError
from trimformer.sweeping import dense_latency, mark_front, member_entry

ROWS = problem_rows("single_label")
OPTIONS = {"batch_size": 8, "num_samples": 20}


def sweep(constraints=(0.8, 0.6, 0.4, 0.3), **options):
    steps = small_steps(next(iter(options.get("methods", ["obs"])), ""))
    return trimformer.sweep(
        problem_model("single_label"), make_tokenizer(), ROWS, constraints, **OPTIONS, **steps, **options
    )


@pytest.mark.parametrize("method", ["obs", "kwon2022", "kprune"])
def test_a_member_is_the_model_that_one_prune_gives(method):
    family = sweep(methods=[method])
    for result, constraint in zip(family, (0.8, 0.6, 0.4, 0.3), strict=True):
        alone = trimformer.prune(
            problem_model("single_label"),
            make_tokenizer(),
            ROWS,
            constraint,
            method=method,
            **OPTIONS,
            **small_steps(method),
        )
        ours, theirs = (r.model.state_dict() for r in (result, alone))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert result.scores == alone.scores
        assert result.budget == alone.budget


@pytest.mark.parametrize(
    ("method", "max_memory", "walks"),
    [("obs", math.inf, [4]), ("obs", 1, [1, 1, 1, 1]), ("kprune", math.inf, [1, 1, 1, 1])],
)
def test_as_many_members_are_pruned_at_once_as_memory_allows(monkeypatch, method, max_memory, walks):
    seen, prune_all = [], Pruner.prune_all

    def watched(self, budgets, **options):
        seen.append(len(budgets))
        return prune_all(self, budgets, **options)

    monkeypatch.setattr(Pruner, "prune_all", watched)
    sweep(methods=[method], max_memory=max_memory)
    assert seen == walks


def test_methods_stand_side_by_side_in_one_table():
    family = sweep((0.5, 0.3), methods=("obs", "magnitude"))
    frame = family.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["directory"]) == ["obs-0.5", "obs-0.3", "magnitude-0.5", "magnitude-0.3"]
    for row, result in zip(frame.to_dict("records"), family, strict=True):
        assert row["accuracy"] == result.scores.pruned["accuracy"]
        assert row["macs"] == result.sizes["pruned"].macs
    assert frame["pareto"].any()


def test_latencies_are_kept_to_by_every_member():
    table = make_table(problem_model("single_label"), elsewhere=True)
    dense = table.costs(problem_model("single_label")).dense
    asked = [0.9 * dense, 0.5 * dense]
    family = sweep(None, latency_ms=asked, latency=LatencyOptions(2, 8, table=table))
    for result, ms in zip(family, asked, strict=True):
        assert result.budget.estimated_ms <= result.budget.asked_ms == ms


def test_the_front_is_what_no_other_beats():
    points = [(4, 0.1), (3, 0.2), (2, 0.2), (1, 0.9), (3, 0.5), (2, 0.2)]
    entries = [{"sizes": {"macs": macs}, "divergence": apart} for macs, apart in points]
    mark_front(entries, "mac")
    assert [entry["pareto"] for entry in entries] == [True, False, True, True, False, True]


def test_lists_that_make_no_family_are_refused():
    for words, options in {
        "list of constraints is empty": {"constraints": []},
        "are not sorted": {"constraints": [0.5, 0.9, 0.7]},
        "name each once": {"constraints": [0.5, 0.5]},
        "outside \\(0, 1\\]": {"constraints": [1.5, 0.5]},
        "either constraints or latencies": {"constraints": [0.5], "latency_ms": [3.0]},
        "method 'obs' is named twice": {"methods": ("obs", "obs")},
        "'no' is unknown": {"methods": ("no",)},
        "leaves no unit": {"constraints": [0.5, 1e-6]},
    }.items():
        with pytest.raises(TrimformerError, match=words):
            sweep(**options)


def test_latencies_of_members_that_were_timed_at_different_loads_are_counted_at_one():
    def figures(dense, ratio):
        ms = {"median": dense, "low": dense, "high": dense, "count": 9}
        pruned = {key: value * (1 if key == "count" else ratio) for key, value in ms.items()}
        ratios = {"median": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "count": 9}
        return {
            "budget": {"constraint": ratio, "asked_ms": None, "kept": ratio},
            "scores": {"pruned": {}, "divergence": 0.0},
            "sizes": {"pruned": {}},
            "latency": {"dense_ms": ms, "pruned_ms": pruned, "ratio": ratios},
        }

    results = [figures(223.0, 0.5), figures(396.0, 0.91)]
    dense_ms = dense_latency(results)["median"]
    assert dense_ms == 223.0
    entry = member_entry("obs-0.9", "obs", results[1], dense_ms)
    assert entry["latency_ms"]["median"] == pytest.approx(0.91 * 223)
    assert entry["latency_ms"]["median"] * entry["speedup"]["median"] == pytest.approx(dense_ms)
    assert entry["latency_ms"]["count"] == 9
