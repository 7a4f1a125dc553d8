"""On a GPU: the same masks and, but for rounding, the same weights as on the CPU."""

import pytest
import torch

import trimformer
from tests.commands import problem_model, problem_rows, small_steps
from tests.conftest import make_model, make_tokenizer
from trimformer.costs.lookup_tables import check_table
from trimformer.costs.measure_latency import measure_table

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """No TF32: it keeps ten bits."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.parametrize("method", ["obs", "kwon2022"])
def test_the_gpu_prunes_as_the_cpu_does(method):
    results = [
        trimformer.prune(
            problem_model("single_label"),
            make_tokenizer(),
            problem_rows("single_label", 80),
            0.5,
            method=method,
            batch_size=8,
            device=device,
            **small_steps(method),
        )
        for device in ("cpu", "cuda")
    ]
    for one, other in zip(results[0].masks, results[1].masks, strict=True):
        assert torch.equal(one != 0, other.cpu() != 0)
    weights = results[1].model.state_dict()
    assert results[1].model.device.type == "cuda"
    for name, value in results[0].model.state_dict().items():
        torch.testing.assert_close(weights[name].cpu(), value, atol=1e-3, rtol=1e-3)
    assert results[1].cost.peak_gb["device"] > 0


def test_a_table_can_be_measured():
    model = make_model().cuda()  # type: ignore[call-arg]
    table = measure_table(model, 2, 8, seconds=0.5)
    assert {kind: len(levels) for kind, levels in table.levels.items()} == {"attention": 5, "ffn": 41}
    assert all((levels > 0).all() for levels in table.levels.values())
    check_table(table, model)
