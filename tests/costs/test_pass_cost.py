import copy
import math

import pytest
import torch

from tests.conftest import make_batch, make_model
from trimformer.costs.pass_cost import forward_seconds


@pytest.mark.parametrize("batches", [1, 3, 16, 40])
def test_a_forward_pass_takes_a_while_and_leaves_the_model_as_it_was(batches):
    model = make_model().train()
    model.classifier.requires_grad_(False)
    before, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    assert 0 < forward_seconds(model, [make_batch(seed=i) for i in range(batches)]) < math.inf
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(module.training for module in model.modules())


def test_a_sixteenth_of_the_batches_is_run_and_stands_for_all(monkeypatch):
    model, batches = make_model(), [make_batch(seed=i) for i in range(64)]
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    monkeypatch.setattr("trimformer.costs.timing.Stopwatch.laps", lambda self: [1000.0] * 4)
    assert forward_seconds(model, batches) == pytest.approx(64)  # a second each
    assert len(seen) == 4 + 1  # one to warm up
