import copy

import pytest
import torch

from testing.models import dense_masks
from tests.conftest import FAMILIES, make_batch, make_model
from trimformer.models import find_layers, find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.models.mask_tensors import stack_masks, unstack_masks
from trimformer.models.masking import MaskUnits, frozen, register_mask
from trimformer.paper import MaskHeads, MaskNeurons, apply_neuron_mask, collect_layer_inputs, hijack_input


def num_hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def random_factors(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(s.num_units, generator=generator) for s in find_sublayers(model)]


def logits(model, batch):
    with torch.no_grad():
        return model(**model_inputs(batch)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_ones_change_nothing(family):
    model, batch = make_model(family), make_batch()
    expected = logits(model, batch)
    sublayers = find_sublayers(model)
    with MaskUnits(sublayers, dense_masks(sublayers)):
        assert torch.equal(logits(model, batch), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_mask_changes_the_output(family):
    model, batch = make_model(family), make_batch()
    expected, sublayers = logits(model, batch), find_sublayers(model)
    for i in range(len(sublayers)):
        masks = dense_masks(sublayers)
        masks[i][0] = 0
        with MaskUnits(sublayers, masks):
            assert not torch.allclose(logits(model, batch), expected, atol=1e-6)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", ["heads", "neurons", "units"])
def test_contexts_leave_no_hook_behind(kind, fails):
    model, batch = make_model(), make_batch()
    masks = random_factors(model)
    context = {
        "heads": lambda: MaskHeads(model, masks[::2]),
        "neurons": lambda: MaskNeurons(model, torch.stack(masks[1::2])),
        "units": lambda: MaskUnits(find_sublayers(model), masks),
    }[kind]()
    expected = logits(model, batch)
    try:
        with context:
            assert num_hooks(model) == (6 if kind == "units" else 3)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert num_hooks(model) == 0
    assert torch.equal(logits(model, batch), expected)


def test_one_mask_too_few_is_an_error_and_leaves_no_hook():
    model = make_model()
    with pytest.raises(ValueError, match="shorter"):
        MaskHeads(model, torch.ones(2, 4))
    assert num_hooks(model) == 0


def test_applied_neuron_masks_act_like_the_context_and_can_be_removed():
    model, batch = make_model(), make_batch()
    mask = torch.stack(random_factors(model)[1::2])
    with MaskNeurons(model, mask):
        expected = logits(model, batch)
    handles = apply_neuron_mask(model, mask)
    assert torch.equal(logits(model, batch), expected)
    for handle in handles:
        handle.remove()
    assert num_hooks(model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_masking_a_head_equals_zeroing_the_projections_columns(family):
    model, batch = make_model(family), make_batch()
    zeroed = copy.deepcopy(model)
    mask = torch.ones(3, 4)
    mask[1, 2] = 0
    with torch.no_grad():
        find_sublayers(zeroed)[2].projection.weight[:, 12:18] = 0
    with MaskHeads(model, mask):
        torch.testing.assert_close(logits(model, batch), logits(zeroed, batch))


def test_each_sample_can_have_its_own_mask():
    model, batch = make_model(), make_batch(batch=3)
    sublayers = find_sublayers(model)
    masks = [torch.rand(3, 1, s.num_units) for s in sublayers]
    with MaskUnits(sublayers, masks):
        together = logits(model, batch)
    for i in range(3):
        with MaskUnits(sublayers, [mask[i, 0] for mask in masks]):
            torch.testing.assert_close(logits(model, batch)[i], together[i])


def test_register_mask_and_hijack_input_see_the_same_input():
    linear, seen, x = torch.nn.Linear(6, 2), [], torch.randn(4, 6)
    handles = [register_mask(linear, torch.tensor([1.0, 0.0, 2.0]), unit_size=2), hijack_input(linear, seen)]
    linear(x)
    for handle in handles:
        handle.remove()
    linear(x)
    torch.testing.assert_close(seen, [x * torch.tensor([1.0, 1, 0, 0, 2, 2])])


@pytest.mark.parametrize("family", FAMILIES)
def test_collect_layer_inputs_returns_the_layers_inputs(family):
    model = make_model(family)
    batches = [model_inputs(make_batch(seed=i)) for i in range(2)]
    for layer in range(3):
        for inputs, given in zip(batches, collect_layer_inputs(model, batches, layer), strict=True):
            states = model(**inputs, output_hidden_states=True).hidden_states
            torch.testing.assert_close(given.hidden, states[layer])


def flags(model):
    training = [module.training for module in model.modules()]
    return training, [p.requires_grad for p in model.parameters()], num_hooks(model)


def mixed_model():
    model = make_model().train()
    model.classifier.eval()
    model.classifier.weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("stop", [False, True])
def test_collect_layer_inputs_does_not_change_the_model(stop):
    model = mixed_model()
    before = flags(model)
    for _ in collect_layer_inputs(model, [model_inputs(make_batch())] * 2):
        assert flags(model) == before
        if stop:
            break
    assert flags(model) == before


@pytest.mark.parametrize("layer", [0, 1])
def test_collect_layer_inputs_cleans_up_after_a_failing_forward(layer):
    model = mixed_model()
    before = flags(model)
    bad = {"input_ids": torch.full((1, 3), 10_000)}
    with pytest.raises(IndexError):
        list(collect_layer_inputs(model, [bad], layer))
    assert flags(model) == before


def test_collect_layer_inputs_stops_at_the_layer():
    model, reached = make_model(), []
    find_layers(model)[1].register_forward_pre_hook(lambda *_: reached.append(1))
    list(collect_layer_inputs(model, [model_inputs(make_batch())], layer=0))
    assert reached == []


def test_frozen_is_evaluation_mode_without_gradients():
    model = mixed_model()
    with frozen(model):
        assert not any(flags(model)[0] + flags(model)[1])


def test_frozen_restores_flags_after_an_exception():
    model = mixed_model()
    before = flags(model)
    with pytest.raises(IndexError), frozen(model):
        model(input_ids=torch.full((1, 3), 10_000))
    assert flags(model) == before


@pytest.mark.parametrize("shrunk", [False, True])
def test_unstacking_inverts_stacking(shrunk):
    from trimformer.checkpoints.shrink import shrink

    model = make_model()
    if shrunk:
        masks = [(m > 0.4).float() for m in random_factors(model)]
        shrink(model, masks)
        assert len({s.num_units for s in find_sublayers(model)}) > 2
    sublayers, masks = find_sublayers(model), random_factors(model)
    heads, neurons = stack_masks(sublayers, masks)
    assert (heads.shape[0], neurons.shape[0]) == (3, 3)
    for mask, again in zip(masks, unstack_masks(sublayers, heads, neurons), strict=True):
        assert torch.equal(mask, again)
