import copy

import pytest
import torch

from testing.models import dense_masks
from tests.conftest import FAMILIES, HEADS, make_batch, make_model, random_masks
from trimformer.checkpoints.shrink import resize, shrink
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.models.masking import MaskUnits
from trimformer.models.removal import keep_units


def outputs(model, batch):
    with torch.no_grad():
        return tuple(v for v in model(**model_inputs(batch)).values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_equals_shrunk(family, head, scaled):
    model, batch = make_model(family, head), make_batch()
    masks = random_masks(model, emptied=(0, 3), scaled=scaled)
    with MaskUnits(find_sublayers(model), masks):
        expected = outputs(model, batch)
    shrink(model, masks)
    assert [s.num_units for s in find_sublayers(model)] == [int(mask.count_nonzero()) for mask in masks]
    torch.testing.assert_close(outputs(model, batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_nothing_but_residuals_still_runs(family, attention):
    model, batch = make_model(family, attn_implementation=attention), make_batch()
    masks = [torch.zeros(s.num_units) for s in find_sublayers(model)]
    with MaskUnits(find_sublayers(model), masks):
        expected = outputs(model, batch)
    shrink(model, masks)
    torch.testing.assert_close(outputs(model, batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_lost_an_attention_can_be_copied_pickled_and_pruned_again(family, tmp_path):
    model, batch = make_model(family), make_batch()
    shrink(model, random_masks(model, emptied=(0, 3)))
    expected = outputs(model, batch)
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        torch.testing.assert_close(outputs(other, batch), expected, atol=0, rtol=0)
        with torch.no_grad():  # of the copy's own projection
            find_sublayers(other)[0].projection.bias.add_(1)
        masks = random_masks(other, seed=1)
        with MaskUnits(find_sublayers(other), masks):
            masked = outputs(other, batch)
        shrink(other, masks)
        torch.testing.assert_close(outputs(other, batch), masked, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(masked[0], expected[0])
    torch.testing.assert_close(outputs(model, batch), expected, atol=0, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_ones_change_nothing(family):
    model = make_model(family)
    before = copy.deepcopy(model.state_dict())
    shrink(model, dense_masks(find_sublayers(model)))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_shrinking_twice_is_shrinking_by_both_masks():
    once, twice = make_model(), make_model()
    masks = random_masks(once, emptied=(0, 3))
    again = [torch.rand(int(mask.sum())).mul(2).round() for mask in masks]
    both = [mask.clone() for mask in masks]
    for mask, more in zip(both, again, strict=True):
        mask[mask != 0] = more
    shrink(once, both)
    shrink(twice, masks)
    shrink(twice, again)
    assert once.config.quantization_config == twice.config.quantization_config
    for one, two in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_widths_are_recorded_and_resize_restores_the_shapes():
    model, other = make_model(), make_model(seed=1)
    masks = random_masks(model, emptied=(0, 3))
    shrink(model, masks)
    widths = model.config.quantization_config
    assert widths["heads"] == [int(mask.sum()) for mask in masks[::2]]
    assert widths["neurons"] == [int(mask.sum()) for mask in masks[1::2]]
    resize(other, widths["heads"], widths["neurons"])
    assert [p.shape for p in other.parameters()] == [p.shape for p in model.parameters()]


def test_linear_sizes_and_requires_grad_follow():
    model = make_model()
    for s in find_sublayers(model):
        s.projection.weight.requires_grad_(False)
    shrink(model, random_masks(model, emptied=(0, 3)))
    for s in find_sublayers(model):
        assert not s.projection.weight.requires_grad
        for linear in (s.projection, *(p.linear for p in s.producers)):
            assert (linear.out_features, linear.in_features) == linear.weight.shape
        assert all(p.linear.weight.requires_grad and p.linear.weight.is_leaf for p in s.producers)


def test_units_are_kept_in_the_order_given():
    model = make_model()
    ffn = find_sublayers(model)[1]
    weight, first = ffn.projection.weight.clone(), ffn.producers[0].linear.bias.clone()
    keep_units(ffn, torch.tensor([7, 2]))
    assert torch.equal(ffn.projection.weight, weight[:, [7, 2]])
    assert torch.equal(ffn.producers[0].linear.bias, first[[7, 2]])


def test_a_mask_of_the_wrong_length_names_the_sublayer_and_changes_nothing():
    model = make_model()
    masks = random_masks(model, emptied=(0, 3))
    masks[2] = masks[2][:3]
    with pytest.raises(TrimformerError, match="layer 1 attention has 3 entries for 4 units"):
        shrink(model, masks)
    assert [s.num_units for s in find_sublayers(model)] == [4, 40] * 3
