"""Which sublayers' outputs calibration keeps for the refit."""

import math

import pytest
import torch

from testing.families import inputs, make
from tests.conftest import make_batch, make_model
from trimformer.importance import second_moments
from trimformer.importance.second_moments import collect_moments
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import count_positions
from trimformer.refit import kept_outputs
from trimformer.refit.kept_outputs import choose_kept_outputs, fill_memory, spare_memory
from trimformer.refit.memory_estimate import estimate_memory


@pytest.mark.parametrize(("memory", "kept"), [(6 * 5760, [0, 1, 2, 3, 4, 5]), (25_000, [0, 1, 2, 4]), (5759, [])])
def test_sublayers_with_the_most_weights_per_byte_come_first(memory, kept):
    """Attention has more weights here than the FFN."""
    assert fill_memory(find_sublayers(make_model()), [5760] * 6, memory) == kept


@pytest.mark.parametrize("bounds", [(math.inf, 1e7), (1e5, math.inf), (2e5, 1e7), (1e3, 1e7), (math.inf, 1e4)])
def test_outputs_take_no_memory_that_is_needed(bounds):
    max_memory, free = bounds
    model = make_model()
    memory = spare_memory(model, 4096, 512, max_memory=max_memory, free=free)
    plain = estimate_memory(model, 4096, 512, max_memory=max_memory)
    more = estimate_memory(model, 4096, 512, max_memory=max_memory, outputs=memory)
    assert 0 <= memory <= min(max_memory, free / 3)
    assert more.total - more.weights <= max(free, plain.total - plain.weights)
    assert bool(memory) == (bounds == (math.inf, 1e7))


def test_without_any_bound_nothing_is_kept():
    assert spare_memory(make_model(), 4096, 512, max_memory=math.inf, free=math.inf) == 0


TOWERS = [("CLIP", "Model"), ("OPT", "ForSequenceClassification"), ("Wav2Vec2", "Model")]


@pytest.mark.parametrize(("family", "head"), TOWERS)
def test_the_size_of_outputs_is_that_of_their_towers(family, head):
    """The towers of CLIP read texts and images of different lengths."""
    model = make(family, head)
    batch = inputs(model)
    positions, sublayers = count_positions(model, [batch, batch]), find_sublayers(model)
    moments = collect_moments(model, [batch, batch], keep_outputs=range(len(sublayers)))
    for m, s, count in zip(moments, sublayers, positions, strict=True):
        assert sum(output.nbytes for output in m.outputs) == 4 * count * s.hidden_size


def test_outputs_are_not_kept_where_other_work_takes_the_memory(monkeypatch):
    model, batches, free = make_model(), [make_batch(seed=i) for i in range(4)], iter([1e12, 1e12, 1.0])
    monkeypatch.setattr(second_moments, "free_memory", lambda _: next(free))
    plain = collect_moments(model, batches)
    for one, other in zip(collect_moments(model, batches, keep_outputs=range(6)), plain, strict=True):
        assert not one.outputs
        assert torch.equal(one.inputs, other.inputs)


def test_the_choice_leaves_the_model_and_the_random_numbers_as_they_were(monkeypatch):
    monkeypatch.setattr(kept_outputs, "free_memory", lambda _: 1e12)
    model, state = make_model().train(), torch.get_rng_state()
    assert choose_kept_outputs(model, [make_batch()], math.inf) == [0, 1, 2, 3, 4, 5]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
