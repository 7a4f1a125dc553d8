import copy

import pytest
import torch

from testing.language import language_model
from tests.conftest import make_batch, make_model
from trimformer.costs.cost_tables import linear_costs
from trimformer.models import find_sublayers
from trimformer.refit.kprune import _select_best, kprune


def run(constraint, head="ForSequenceClassification"):
    teacher, batch = make_model(head=head), make_batch(batch=24)
    student = copy.deepcopy(teacher)
    costs = linear_costs(find_sublayers(teacher), "mac", 8)
    masks, refits = kprune(teacher, student, [batch], costs, constraint=constraint)
    return teacher, student, batch, costs, masks, refits


@pytest.mark.parametrize("constraint", [0.7, 0.4, 0.15])
def test_the_budget_is_kept_and_nearly_used(constraint):
    _, student, _, costs, masks, _ = run(constraint)
    units = [s.num_units for s in find_sublayers(student)]
    assert constraint * costs.dense - max(costs.per_unit) <= costs.of(units) <= constraint * costs.dense
    assert [int(mask.sum()) for mask in masks] == units


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering", "Model"])
def test_every_head_can_be_pruned(head):
    _, student, batch, *_ = run(0.5, head)
    assert student(batch["input_ids"], attention_mask=batch["attention_mask"])[0].isfinite().all()


@pytest.mark.parametrize("family", ["OPT", "Llama"])  # OPT's projections see all tokens of a batch in one row
def test_language_models_can_be_pruned(family):
    teacher = language_model(family)
    ids = torch.arange(2, 16).view(2, 7)
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "next_tokens": ids.roll(-1, 1),
                "index": torch.arange(2)}]  # fmt: skip
    student = copy.deepcopy(teacher)
    costs = linear_costs(find_sublayers(teacher), "mac", 7)
    masks, _ = kprune(teacher, student, batches, costs, constraint=0.5)
    assert [int(mask.sum()) for mask in masks] == [s.num_units for s in find_sublayers(student)]


def test_a_refit_never_raises_the_error_of_its_sublayer():
    *_, refits = run(0.5)
    assert all(r.error_after <= r.error_before * (1 + 1e-6) for r in refits)


def test_the_whole_budget_keeps_everything_and_changes_little():
    teacher, student, batch, *_ = run(1.0)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    torch.testing.assert_close(student(**inputs).logits, teacher(**inputs).logits, atol=1e-3, rtol=1e-3)


def test_the_threshold_keeps_the_best_of_all_that_fit():
    scores = [torch.tensor([1.0, 9.0]), torch.tensor([5.0, 7.0, 3.0])]
    assert _select_best(scores, [2.0, 1.0], 4.0).tolist() == [False, True]
    assert _select_best(scores, [2.0, 1.0], 7.0).tolist() == [True, True]
    assert _select_best(scores, [2.0, 1.0], 1.0).tolist() == [False, False]


def test_masks_of_the_dense_model_tell_which_units_are_left():
    teacher, student, _, _, masks, _ = run(0.5)
    for source, small, mask in zip(find_sublayers(teacher), find_sublayers(student), masks, strict=True):
        rows = mask.bool().repeat_interleave(source.unit_size)
        assert torch.equal(source.producers[0].linear.weight[rows], small.producers[0].linear.weight)
