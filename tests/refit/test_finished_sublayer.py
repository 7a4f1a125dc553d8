"""Which module a walk skips in a sublayer that it has passed; tests/models/test_families.py compares the refits."""

import pytest
import torch

from testing.families import FAMILIES, inputs, make
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import LeafRecorder, record_calls
from trimformer.refit.finished_sublayer import FinishedSublayer, find_skippable

# Family -> the module of an attention that is skipped, and whether it gives the projection's output.
SKIPPED = {
    "Bert": ("attention.self", False),
    "ViT": ("attention", True),
    "MPNet": ("attention.attn", True),
    "Llama": ("self_attn", True),
    "GPT2": ("attn", True),
    "Falcon": ("self_attention", True),
    "T5": None,  # its first layer gives the later ones their relative positions
}


@pytest.fixture(params=SKIPPED)
def case(request):
    """The attention of a family's second layer, a function that runs the layer, and what can be skipped."""
    model = make(request.param, FAMILIES[request.param].heads[0])
    sublayer = [s for s in find_sublayers(model) if s.kind == "attention"][1]
    call = next(call for call in record_calls(model, inputs(model)) if call.layer is sublayer.module)
    hidden = torch.randn(*call.mask.shape, sublayer.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        yield sublayer, lambda: call(hidden.clone()), SKIPPED[request.param]


def test_the_skipped_module_is_found_by_what_it_returns(case):
    sublayer, run, expected = case
    with find_skippable(sublayer) as found:
        run()
    skippable = found()
    if expected is None:
        assert skippable is None
    else:
        assert (skippable.module, skippable.gives_output) == (sublayer.module.get_submodule(expected[0]), expected[1])


def test_nothing_is_found_where_the_sublayer_did_not_run(case):
    with find_skippable(case[0]) as found:
        pass
    assert found() is None


def replayed(sublayer, run, observed=()):
    """Returns the layer's output in three replays, and how often the first producer ran in each."""
    outputs, runs = [], []
    with LeafRecorder(sublayer.projection, outputs=True) as projection:
        run()
    finished = FinishedSublayer(sublayer, projection.tensors)
    for _ in range(3):
        with LeafRecorder(sublayer.producers[0].linear) as producer, finished.replayed(0, observed):
            outputs.append(run())
        runs.append(len(producer.tensors))
    return outputs, runs


def test_later_replays_skip_the_module_and_give_the_same(case):
    sublayer, run, expected = case
    outputs, runs = replayed(sublayer, run)
    assert runs == ([1, 1, 1] if expected is None else [1, 0, 0])
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert run().isfinite().all()  # the layer is as it was
    assert "forward" not in {name for module in sublayer.module.modules() for name in vars(module)}


def test_a_module_runs_while_one_of_its_leaves_is_observed(case):
    sublayer, run, _ = case
    assert replayed(sublayer, run, [sublayer.producers[0].linear])[1] == [1, 1, 1]
