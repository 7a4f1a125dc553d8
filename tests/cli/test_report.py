import json

import pytest
import torch

from tests.conftest import make_model, make_tokenizer
from trimformer.arch import find_sublayers
from trimformer.cli.report import format_table, results_dict, write_result
from trimformer.pipeline import PruningResult
from trimformer.shrinking.shrink import shrink
from trimformer.update.walk import Refit


@pytest.fixture
def result():
    """As if half of a model had been removed."""
    model = make_model()
    masks = [torch.arange(s.num_units).lt(s.num_units // 2).float() for s in find_sublayers(model)]
    shrink(model, masks)
    return PruningResult(
        model,
        masks,
        metrics={
            "dense": {"accuracy": 0.9, "accuracy_ci95": 0.01234, "f1": 0.8},
            "pruned": {"accuracy": 0.85, "accuracy_ci95": 0.02, "f1": 0.825},
            "divergence": 0.01236,
        },
        sizes={
            "dense": {"macs": 2e9, "parameters": 20e6, "bytes": 80e6, "latency_ms": 30.0},
            "pruned": {"macs": 1e9, "parameters": 15e6, "bytes": 60e6, "latency_ms": 20.0},
        },
        timings={"data": 0.5, "search": 1.25},
        refits=[Refit("layer 0 ffn", 20, True, 2.0, 1.0, ridge=0.1)] * 6,
        info={
            "problem": "single_label",
            "seq_len": 12.5,
            "latency": {"batch_size": 32, "seq_len": 13},
            "forward_passes": {"search": 4.25, "total": 4.25, "seconds_of_one": 0.3},
            "peak_memory": {"host_gb": 1.25},
        },
    )


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
    assert "asked" not in table(result)
    result.info["latency"] |= {"asked_ms": 15.0, "estimated_ms": 14.5}
    rows = table(result)
    assert (rows["asked"], rows["estimated"]) == (["15.00"], ["14.50"])


def test_a_model_that_got_slower_is_not_called_faster(result):
    result.sizes["pruned"]["latency_ms"] = 60.0
    assert table(result)["latency (ms, 32 x 13)"][-2:] == ["2.00x", "slower"]


def test_the_seconds_are_summed_and_the_cost_and_the_memory_are_told(result):
    result.info["peak_memory"]["device_gb"] = 3.0
    seconds, cost = format_table(result).splitlines()[-2:]
    assert seconds == "seconds: data 0.5, search 1.2; 1.8 in all"
    assert "cost 4.2 forward passes" in cost
    assert "peak memory host 1.2 GB, device 3.0 GB" in cost


@pytest.mark.parametrize(
    ("problem", "words"), [("regression", "squared error"), ("embedding", "1 - cosine"), ("span", "KL to dense")]
)
def test_the_distance_is_called_what_it_is(result, problem, words):
    result.info["problem"] = problem
    result.metrics["dense"] = result.metrics["pruned"] = {}
    lines = format_table(result).splitlines()
    assert words in lines[2]  # the first row, as there are no metrics


def test_results_hold_every_figure(result):
    found = json.loads(json.dumps(results_dict(result, {"seed": 3})))
    assert found["metrics"] == result.metrics
    assert (found["dense"], found["pruned"]) == (result.sizes["dense"], result.sizes["pruned"])
    assert found["seconds"] == result.timings
    assert (found["heads"], found["neurons"]) == ([2] * 3, [20] * 3)
    assert found["arguments"] == {"seed": 3}
    assert found["sublayers"][0]["refit"]["error_after"] == 1.0
    assert found["seq_len"] == 12.5


def test_a_write_that_fails_leaves_nothing(result, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        write_result(result, make_tokenizer(), tmp_path / "out", find_sublayers(make_model()), {})
    assert list(tmp_path.iterdir()) == []
