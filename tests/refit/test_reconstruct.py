import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testing.models import dense_masks
from tests.conftest import FAMILIES, make_batch, make_model, pruned, random_masks
from trimformer.models import find_sublayers
from trimformer.models.masking import MaskUnits
from trimformer.refit.reconstruct import find_minimum, reconstruct, refit
from trimformer.refit.regression_moments import HELD_OUT_EVERY, MomentSums
from trimformer.refit.walk import walk


def only(model, index):
    """Masks that prune one sublayer."""
    masks = dense_masks(find_sublayers(model))
    masks[index] = random_masks(model)[index]
    return masks


def inputs_and_targets(teacher, student, batch, index):
    """[tokens, channels] and [tokens, hidden] of one sublayer, where nothing below it is pruned."""
    seen = []
    for model in (teacher, student):
        projection, into = find_sublayers(model)[index].projection, []
        handle = projection.register_forward_hook(lambda _, inputs, out, into=into: into.extend((inputs[0], out)))
        with torch.no_grad():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        handle.remove()
        seen.append(into)
    tokens = batch["attention_mask"].bool()
    return seen[1][0][tokens].double().numpy(), seen[0][1][tokens].double().numpy()


def solve(x, y, weights):
    """Weighted least squares with a free bias: weight [hidden, channels], bias [hidden]."""
    root = np.sqrt(weights)[:, None]
    solution = np.linalg.lstsq(root * np.c_[x, np.ones(len(x))], root * y, rcond=None)[0]
    return solution[:-1].T, solution[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_removed_changes_nothing(family):
    teacher = make_model(family)
    student = copy.deepcopy(teacher)
    refits = reconstruct(teacher, [student], [make_batch(batch=16)])[0]
    assert not any(r.accepted for r in refits)
    assert all(r.note for r in refits)
    for name, value in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], value)


def test_refit_with_a_tiny_ridge_is_weighted_least_squares():
    generator = torch.Generator().manual_seed(0)
    x, y, weights = (torch.randn(*shape, generator=generator) for shape in ((90, 6), (90, 4), (90,)))
    weights = weights.abs()
    sums = MomentSums(6, 4, torch.device("cpu"))
    sums.add(x + 1, y, weights)
    weight, bias = refit(sums.moments(), torch.randn(4, 6), 1e-10)
    expected = solve((x + 1).numpy(), y.numpy(), weights.numpy())
    np.testing.assert_allclose(weight, expected[0], atol=1e-4)
    np.testing.assert_allclose(bias, expected[1], atol=1e-4)


@given(st.lists(st.floats(0, 1), unique=True, min_size=1, max_size=7), st.integers(0, 6), st.integers(0, 6))
def test_the_lowest_of_a_valley_is_found(values, bottom, unsolved):
    values.sort()
    left, right = values[1 : 1 + bottom], values[1 + bottom :]
    valley = [math.inf] * unsolved + [*reversed(left), values[0], *right]
    assert find_minimum(valley.__getitem__, len(valley)) == valley.index(values[0])


def test_refit_with_a_huge_ridge_keeps_the_weights():
    sums, weight = MomentSums(6, 4, torch.device("cpu")), torch.randn(4, 6)
    sums.add(torch.randn(90, 6), torch.randn(90, 4), torch.ones(90))
    torch.testing.assert_close(refit(sums.moments(), weight, 1e9)[0].float(), weight)


@pytest.mark.parametrize("apart", [True, False])
def test_held_out_samples_have_no_part_in_a_refit_apart_from_them(apart):
    teacher, refitted = make_model(), []
    masks = random_masks(teacher)
    for seed in (1, 2):
        batch, other = make_batch(batch=64), make_batch(batch=64, seed=seed)
        held_out = batch["index"] % HELD_OUT_EVERY == 0
        batch["input_ids"][held_out] = other["input_ids"][held_out]
        refitted.append(pruned(teacher, masks))
        reports = reconstruct(teacher, [refitted[-1]], [batch], ridges=[0.1], without_held_out=[0] if apart else [])[0]
        assert any(report.accepted for report in reports)
    weights = [find_sublayers(model)[1].projection.weight for model in refitted]
    assert torch.allclose(*weights, atol=1e-4) == apart  # sums are of all samples less those held out


@pytest.mark.parametrize("index", [0, 1, 4, 5])
def test_refit_over_an_unpruned_model_is_weighted_least_squares(index):
    teacher, batch = make_model(), make_batch(batch=64)
    student = pruned(teacher, only(teacher, index))
    mask = batch["attention_mask"]
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    x, y = inputs_and_targets(teacher, student, batch, index)
    refits = reconstruct(teacher, [student], [batch], token_weights=lambda *_: weights, ridges=[1e-9])[0]
    assert [r.accepted for r in refits[: index + 1]] == [False] * index + [True]
    weight, bias = solve(x, y, weights[mask.bool()].double().numpy())
    projection = find_sublayers(student)[index].projection
    np.testing.assert_allclose(projection.weight.detach(), weight, atol=1e-3)
    np.testing.assert_allclose(projection.bias.detach(), bias, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_error_is_that_of_the_weights_and_never_rises(family):
    teacher, batch = make_model(family), make_batch(batch=24)
    student = pruned(teacher, random_masks(teacher))
    first = next(walk(teacher, student, [batch]))
    projection = first.sublayer.projection
    before = first.held_out.error(projection.weight.detach(), projection.bias.detach())
    refits = reconstruct(teacher, [student], [batch])[0]
    assert refits[0].error_before == pytest.approx(before)
    assert all(r.error_after < r.error_before if r.accepted else r.error_after == r.error_before for r in refits)
    assert sum(r.accepted for r in refits) >= 3


def test_a_refit_that_only_fits_noise_is_turned_down():
    teacher, batch = make_model(), make_batch(batch=2, length=3)
    student = pruned(teacher, random_masks(teacher))
    before = copy.deepcopy(student.state_dict())
    weights = torch.zeros(2, 3)
    weights[0, 0], weights[1, 1] = 1, 1e-3
    refits = reconstruct(teacher, [student], [batch], token_weights=lambda *_: weights, ridges=[1e-6])[0]
    turned_down = [s for s, r in zip(find_sublayers(student), refits, strict=True) if not r.accepted]
    assert turned_down
    names = {id(p): name for name, p in student.named_parameters()}
    for s in turned_down:
        assert torch.equal(s.projection.weight, before[names[id(s.projection.weight)]])


def test_order_and_batches_of_samples_do_not_matter():
    teacher, batch = make_model(), make_batch(batch=24)
    students = [pruned(teacher, random_masks(teacher)) for _ in range(2)]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    permuted = {key: value[order] for key, value in batch.items()}
    parts = [{key: value[start : start + 7] for key, value in permuted.items()} for start in range(0, 24, 7)]
    reconstruct(teacher, [students[0]], [batch])
    reconstruct(teacher, [students[1]], parts)
    for one, other in zip(students[0].parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("index", [0, 3])
def test_a_dropped_sublayer_gives_its_mean_as_bias(index):
    teacher, batch = make_model(), make_batch(batch=24)
    masks = dense_masks(find_sublayers(teacher))
    masks[index] = torch.zeros_like(masks[index])
    student = pruned(teacher, masks)
    _, y = inputs_and_targets(teacher, student, batch, index)
    refits = reconstruct(teacher, [student], [batch])[0]
    assert refits[index].accepted
    np.testing.assert_allclose(find_sublayers(student)[index].projection.bias.detach(), y.mean(0), atol=1e-5)


def test_reconstruction_brings_the_output_closer():
    teacher, batch, fresh = make_model(), make_batch(batch=64), make_batch(batch=32, seed=9)
    sublayers, masks = find_sublayers(teacher), random_masks(teacher)
    student = pruned(teacher, masks)
    reconstruct(teacher, [student], [batch])
    inputs = {key: fresh[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        dense, refitted = teacher(**inputs).logits, student(**inputs).logits
        with MaskUnits(sublayers, masks):
            masked = teacher(**inputs).logits
    assert (refitted - dense).norm() < 0.8 * (masked - dense).norm()


def test_alignment_leaves_the_first_sublayer_and_empty_ones_alone():
    teacher, batch = make_model(), make_batch(batch=24)
    masks = random_masks(teacher)
    masks[3] = torch.zeros_like(masks[3])
    refits = reconstruct(teacher, [pruned(teacher, masks)], [batch])[0]
    assert refits[0].alignment is None
    assert refits[3].alignment is None
    assert all(r.alignment is not None for i, r in enumerate(refits) if i not in (0, 3))


def test_alignment_undoes_a_linear_map_of_what_a_sublayer_reads():
    """A student whose first norm scales its output otherwise: folding the inverse into the producers mends it."""
    teacher, batch = make_model(), make_batch(batch=40)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        norm = find_sublayers(student)[0].module.attention.output.LayerNorm
        norm.weight.mul_(1.5)
        norm.bias.add_(0.3)
    refits = reconstruct(teacher, [student], [batch], ridges=[1e-5])[0]
    first = refits[1].alignment
    assert first.accepted
    assert first.error_after < 1e-4 * first.error_before


def test_both_refits_bring_the_student_nearer_to_the_teacher():
    teacher, batch = make_model(), make_batch(batch=40)
    plain, refitted = (pruned(teacher, random_masks(teacher)) for _ in range(2))
    reconstruct(teacher, [refitted], [batch])
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    target = teacher(**inputs).logits
    assert (refitted(**inputs).logits - target).norm() < 0.8 * (plain(**inputs).logits - target).norm()
