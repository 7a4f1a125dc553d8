import json
from dataclasses import asdict, replace

import pytest

from tests.conftest import make_model, make_tokenizer
from tests.results import make_result, ms
from trimformer.models import find_sublayers
from trimformer.reporting.result_files import results_dict, write_result
from trimformer.reporting.score_table import format_table


@pytest.fixture
def result():
    return make_result()


def table(result):
    return {line[:22].strip(): line[22:].split() for line in format_table(result).splitlines()}


def test_the_table_shows_both_models_and_the_change(result):
    rows = table(result)
    assert rows["accuracy"] == ["90.00", "±1.23", "85.00", "-5.00"]
    assert rows["f1"] == ["80.00", "82.50", "+2.50"]
    assert rows["KL to dense (nats)"] == ["0.0124"]
    assert rows["MACs (G, length 12.5)"] == ["2.00", "1.00", "50.0", "%"]
    assert rows["parameters (M)"] == ["20.00", "15.00", "75.0", "%"]
    assert rows["weights (MB)"] == ["80.00", "60.00", "75.0", "%"]
    assert rows["latency (ms, 32 x 13)"] == ["30.00", "20.00", "1.50x", "faster"]
    assert "accuracy_ci95" not in rows


def test_a_latency_that_was_asked_for_is_shown_with_the_estimate(result):
    assert "allowed" not in table(result)
    result.budget = replace(result.budget, asked_ms=15.0, estimated_ms=14.5)
    rows = table(result)
    assert (rows["allowed"], rows["estimated"]) == (["15.00"], ["14.50"])


def test_a_model_that_got_slower_is_not_called_faster(result):
    result.latency = replace(result.latency, pruned_ms=ms(60.0))
    assert table(result)["latency (ms, 32 x 13)"][-2:] == ["2.00x", "slower"]


def test_the_seconds_are_summed_and_the_cost_and_the_memory_are_told(result):
    result.cost.peak_gb["device"] = 3.0
    seconds, cost = format_table(result).splitlines()[-2:]
    assert seconds == "seconds: data 0.5, search 1.2; 1.8 in all"
    assert "cost 4.2 forward passes" in cost
    assert "peak memory host 1.2 GB, device 3.0 GB" in cost


@pytest.mark.parametrize(
    ("problem", "words"), [("regression", "squared error"), ("embedding", "1 - cosine"), ("span", "KL to dense")]
)
def test_the_distance_is_called_what_it_is(result, problem, words):
    result.task = replace(result.task, problem=problem)
    result.scores = replace(result.scores, dense={}, pruned={})
    lines = format_table(result).splitlines()
    assert words in lines[2]  # the first row, as there are no metrics


def test_results_hold_every_figure(result):
    found = json.loads(json.dumps(results_dict(result, find_sublayers(make_model()), {"seed": 3})))
    assert {**found["scores"], "changed": found["changed"]} == asdict(result.scores)
    assert found["sizes"]["pruned"] == asdict(result.sizes["pruned"])
    assert found["cost"]["seconds"] == result.cost.seconds
    assert (found["heads"], found["neurons"]) == ([2] * 3, [20] * 3)
    assert found["arguments"] == {"seed": 3}
    assert found["sublayers"][0]["refit"]["error_after"] == 1.0
    assert [entry["heads"] for entry in found["sublayers"][:2]] == [[0, 1], None]
    assert (found["sublayers"][1]["units"], found["sublayers"][1]["of"]) == (20, 40)
    assert found["samples"]["seq_len"] == 12.5


def test_printed_it_is_the_table(result):
    assert str(result) == repr(result) == format_table(result)


def test_a_write_that_fails_leaves_nothing(result, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        write_result(result, make_tokenizer(), tmp_path / "out", find_sublayers(make_model()), {})
    assert list(tmp_path.iterdir()) == []
