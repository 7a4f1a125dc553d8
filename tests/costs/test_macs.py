import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import FAMILIES, make_batch, make_model, random_masks
from trimformer.checkpoints.shrink import shrink
from trimformer.costs.macs import model_macs, unit_macs, unit_parameters
from trimformer.models import find_layers, find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.models.mask_tensors import stack_masks
from trimformer.paper import collect_layer_inputs, compute_mac, compute_mask_mac, mac_per_head, mac_per_neuron

LENGTH = 12


def counted_macs(model):
    inputs = model_inputs(make_batch(batch=1, length=LENGTH))
    (given,) = collect_layer_inputs(model, [inputs])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for layer in find_layers(model):
            layer(given.hidden, given.attention_mask)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_macs_are_what_the_layers_compute(family, shrunk):
    model = make_model(family, "Model", attn_implementation="eager")  # PyTorch does not count SDPA on a CPU
    if shrunk:
        shrink(model, random_masks(model, emptied=(5,)))
    assert model_macs(find_sublayers(model), LENGTH) == counted_macs(model)


def test_unit_macs_are_the_papers_formulas():
    attention, ffn = find_sublayers(make_model())[:2]
    assert unit_macs(attention, 31.47) == mac_per_head(31.47, 24, 6) == pytest.approx(4 * 31.47 * 144 + 12 * 31.47**2)
    assert unit_macs(ffn, 31.47) == pytest.approx(mac_per_neuron(31.47, 24)) == pytest.approx(48 * 31.47)


def test_macs_of_masks_are_those_of_the_shrunk_model():
    model = make_model()
    masks = random_masks(model, emptied=(5,))
    heads, neurons = stack_masks(find_sublayers(model), masks)
    shrink(model, masks)
    expected = model_macs(find_sublayers(model), 31.47)
    assert compute_mask_mac(heads * 0.7, neurons, 31.47, 24, 6) == pytest.approx(expected)
    assert compute_mac(heads.sum(1).tolist(), neurons.sum(1).tolist(), 31.47, 24, 6) == pytest.approx(expected)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_unit_parameters_are_what_one_removal_saves(family, index):
    model = make_model(family)
    sublayers = find_sublayers(model)
    before, expected = sum(p.numel() for p in model.parameters()), unit_parameters(sublayers[index])
    masks = [torch.ones(s.num_units) for s in sublayers]
    masks[index][1] = 0
    shrink(model, masks)
    assert before - sum(p.numel() for p in model.parameters()) == expected
