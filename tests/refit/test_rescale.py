import copy

import pytest
import torch

from tests.conftest import FAMILIES, make_batch, make_model, pruned, random_masks
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.models.masking import MaskUnits
from trimformer.refit.regression_moments import MomentSums
from trimformer.refit.rescale import rescale_mask, rescale_system
from trimformer.refit.walk import walk
from trimformer.utils.linalg import closed_form_solver, lsmr_solver


def in_place(mask, scale):
    scaled = mask.clone()
    scaled[mask != 0] = scale
    return scaled


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "unit_size"), [("attention", 3), ("attention", 1), ("ffn", 1)])
def test_system_is_the_normal_equations_of_the_literal_matrix(kind, unit_size, bias):
    generator = torch.Generator().manual_seed(0)
    x, y, weight = (torch.randn(*shape, generator=generator) for shape in ((20, 6), (20, 4), (4, 6)))
    b = torch.randn(4, generator=generator) if bias else None
    sums = MomentSums(6, 4, torch.device("cpu"))
    sums.add(x, y, torch.ones(20))
    units = [slice(u * unit_size, (u + 1) * unit_size) for u in range(6 // unit_size)]
    columns = [(x[:, u] @ weight[:, u].T).flatten() for u in units]
    if kind == "attention":
        columns.append(torch.ones(80))
    a, target = torch.stack(columns, 1).double(), (y - (0 if b is None else b)).flatten().double()
    matrix, right = rescale_system(sums.moments(), weight, b, unit_size, kind)
    torch.testing.assert_close(matrix, a.T @ a, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(right, a.T @ target, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_student_equals_the_dense_model_under_the_scaled_masks(family):
    teacher, batches = make_model(family), [make_batch(seed=1), make_batch(seed=2)]
    masks = random_masks(teacher)
    student = pruned(teacher, masks)
    scales, refits = rescale_mask(teacher, student, batches, teacher_masks=random_masks(teacher, 1))
    assert sum(r.accepted for r in refits) >= 3
    masks = [in_place(mask, scale) for mask, scale in zip(masks, scales, strict=True)]
    with torch.no_grad(), MaskUnits(find_sublayers(teacher), masks):
        expected = teacher(**model_inputs(batches[0])).logits
    torch.testing.assert_close(student(**model_inputs(batches[0])).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("first_token_last", [False, True])
def test_scales_solve_the_system_of_their_sublayer(first_token_last):
    teacher, batch = make_model(), make_batch(batch=9)
    student = pruned(teacher, random_masks(teacher))
    twin, seen = copy.deepcopy(student), []
    rescale_mask(
        teacher,
        student,
        [batch],
        first_token_last=first_token_last,
        solver=lambda *system: seen.append(system) or (torch.ones(len(system[1])), True),
    )

    def weights(index, _, mask):
        mask = mask.clone()
        if first_token_last and index == 5:
            mask[:, 1:] = 0
        return mask.float()

    steps = [step for step in walk(teacher, twin, [batch], token_weights=weights) if step.index > 0]
    for step, (matrix, target) in zip(steps, seen, strict=True):
        s, moments = step.sublayer, step.fit + step.held_out
        expected = rescale_system(moments, s.projection.weight, s.projection.bias, s.unit_size, s.kind)
        torch.testing.assert_close((matrix, target), expected)


def test_nothing_removed_gives_scales_of_almost_one():
    teacher = make_model()
    scales, _ = rescale_mask(teacher, copy.deepcopy(teacher), [make_batch()])
    for scale in scales:  # the damping draws the fitted constant of attention towards 1, away from 0
        torch.testing.assert_close(scale, torch.ones_like(scale), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("spoil", "note"),
    [(lambda x: (x, False), "converge"), (lambda x: (x * 0 - 11, True), "beyond"), (lambda x: (x / 0, True), "beyond")],
)
def test_a_failing_solve_leaves_scale_one_is_reported_and_stops_no_later_one(spoil, note):
    teacher, calls = make_model(), []

    def solver(matrix, target):
        calls.append(1)
        solution, success = closed_form_solver(matrix, target, 1e-2)
        return spoil(solution) if len(calls) == 2 else (solution, success)

    student = pruned(teacher, random_masks(teacher))
    weights = [s.projection.weight.clone() for s in find_sublayers(student)]
    scales, refits = rescale_mask(teacher, student, [make_batch()], solver=solver)
    assert [r.accepted for r in refits] == [False, True, False, True, True, True]
    assert note in refits[2].note
    assert refits[2].error_after == refits[2].error_before
    assert scales[2].tolist() == [1.0] * len(scales[2])
    assert torch.equal(find_sublayers(student)[2].projection.weight, weights[2])
    assert not torch.equal(find_sublayers(student)[5].projection.weight, weights[5])


def test_scales_lower_the_error_that_is_reported():
    teacher = make_model()
    student = pruned(teacher, random_masks(teacher))
    _, refits = rescale_mask(teacher, student, [make_batch(batch=16)], solver=lsmr_solver)
    accepted = [r for r in refits if r.accepted]
    assert len(accepted) >= 3
    assert all(r.error_after < r.error_before for r in accepted if "ffn" in r.sublayer)


def test_empty_sublayers_are_reported_and_left():
    teacher = make_model()
    masks = random_masks(teacher)
    masks[2][:], masks[3][:] = 0, 0
    scales, refits = rescale_mask(teacher, pruned(teacher, masks), [make_batch()])
    assert [len(scales[i]) for i in (2, 3)] == [0, 0]
    assert {refits[2].note, refits[3].note} == {"nothing kept"}
    assert refits[4].accepted
