"""Criteria on activations equal their papers' formulas, written out on the model's own tensors."""

from itertools import pairwise

import pytest
import torch

import trimformer
from testing.language import byte_tokenizer, language_model
from tests.conftest import make_batch, make_model
from trimformer.allocation.allocations import select_masks
from trimformer.costs.cost_tables import linear_costs
from trimformer.importance.criteria import CRITERIA
from trimformer.importance.obs import importance_curve
from trimformer.models import find_sublayers
from trimformer.models.linear import matrix
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import find_method
from trimformer.pruner import Pruner


def channels_of(model, batch, sublayer):
    """The projection's inputs at tokens that are not padding, [tokens, channels]."""
    seen = []
    handle = sublayer.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    return seen[0][batch["attention_mask"].bool()].double()


def scores_of(name, model, batches):
    """The importance of each unit by a criterion's curves."""
    curves = CRITERIA[name](model, batches, "curvature", ExecutionOptions()).curves
    return [torch.empty(len(c.order)).double().scatter_(0, c.order, -c.error.diff().flip(0)) for c in curves]


@pytest.mark.parametrize("split", [1, 3])
def test_wanda_is_the_sum_of_weights_times_norms(split):
    model, batch = make_model(), make_batch(6)
    batches = [{key: value[i::split] for key, value in batch.items()} for i in range(split)]
    for sublayer, scores in zip(find_sublayers(model), scores_of("wanda", model, batches), strict=True):
        x, w = channels_of(model, batch, sublayer), matrix(sublayer.projection).double()
        per_weight = w.abs() * (x.square().sum(0) / len(x)).sqrt()  # [hidden, channels]
        expected = per_weight.view(len(w), -1, sublayer.unit_size).sum((0, 2))
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-9)


def test_flap_is_the_standardized_fluctuation():
    model, batch = make_model(), make_batch(6)
    for sublayer, scores in zip(find_sublayers(model), scores_of("flap", model, [batch]), strict=True):
        x, w = channels_of(model, batch, sublayer), matrix(sublayer.projection).double()
        metric = (x - x.mean(0)).square().mean(0) * w.norm(dim=0) ** 2
        metric = metric.view(-1, sublayer.unit_size).sum(1)
        expected = (metric - metric.mean()) / metric.std(unbiased=False)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_angle_of_a_layer_is_one_minus_the_cosine():
    model, batch = make_model(), make_batch(6)
    with torch.no_grad():
        states = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        ).hidden_states
    mask = batch["attention_mask"].bool()
    expected = [float((1 - torch.cosine_similarity(a[mask].double(), b[mask].double(), dim=-1)).mean())
                for a, b in pairwise(states)]  # fmt: skip
    found = [float(scores.sum()) for scores in scores_of("angle", model, [batch])]
    assert found[::2] == pytest.approx(expected, rel=1e-5)
    assert found[1::2] == pytest.approx(expected, rel=1e-5)


def test_layers_are_dropped_from_the_least_important():
    sublayers = find_sublayers(make_model())
    curves = [importance_curve(torch.full((s.num_units,), float([2, 1, 3][s.layer]))) for s in sublayers]
    costs = linear_costs(sublayers, "mac", 10)
    masks = select_masks("layers", sublayers, curves, costs, constraint=0.7)
    assert [bool(mask.any()) for mask in masks] == [True, True, False, False, True, True]


def test_a_threshold_removes_the_least_important_units_of_all_sublayers():
    sublayers = find_sublayers(make_model())
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(s.num_units, generator=generator).double() for s in sublayers]
    costs = linear_costs(sublayers, "mac", 10)
    curves = list(map(importance_curve, scores))
    masks = select_masks("threshold", sublayers, curves, costs, constraint=0.6)
    kept = min(float(score[mask.bool()].min()) for score, mask in zip(scores, masks, strict=True) if mask.any())
    removed = max(float(score[~mask.bool()].max()) for score, mask in zip(scores, masks, strict=True))
    assert removed < kept


def test_biases_add_the_mean_of_removed_channels():
    model, batch = make_model(), make_batch(8)
    costs = linear_costs(find_sublayers(model), "mac", 10)
    plain, pruned = (Pruner(model, [batch], find_method("flap", update=u))(costs, 0.6) for u in ("none", "bias"))
    first = find_sublayers(model)[0]
    removed = (plain.masks[0] == 0).repeat_interleave(first.unit_size)
    mean = channels_of(model, batch, first).mean(0)
    shift = matrix(first.projection).double() @ (mean * removed)
    before, after = (find_sublayers(p.model)[0].projection.bias.double() for p in (plain, pruned))
    torch.testing.assert_close(after - before, shift, rtol=1e-4, atol=1e-6)


def test_new_biases_are_saved_and_loaded(tmp_path):
    model, tokenizer = language_model(), byte_tokenizer()
    texts = ["the cat sat on the mat, and so did the dog. " * 3] * 12
    result = trimformer.prune(model, tokenizer, texts, 0.6, method="flap", num_samples=8)
    assert any(s.projection.bias is not None for s in find_sublayers(result.model))
    trimformer.save(result.model, tokenizer, tmp_path / "out")
    loaded, _ = trimformer.load(tmp_path / "out")
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, result.model(input_ids=ids).logits)


@pytest.mark.parametrize("name", ["wanda", "flap"])
def test_layers_that_flatten_their_positions_are_ranked(name):
    sizes = {"ffn_dim": 64, "word_embed_proj_dim": 32}
    model, ids = language_model("OPT", **sizes), torch.arange(2, 14).view(2, 6)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "index": torch.arange(2)}
    neurons = [s for s in find_sublayers(model) if s.kind == "ffn"]
    seen = []
    handle = neurons[0].projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scores = scores_of(name, model, [batch])[1]
    handle.remove()
    x, w = seen[0].view(12, -1)[mask.flatten().bool()].double(), matrix(neurons[0].projection).double()
    if name == "wanda":
        expected = w.abs().sum(0) * x.square().mean(0).sqrt()
    else:
        metric = w.square().sum(0) * x.var(0, correction=0)
        expected = (metric - metric.mean()) / metric.std(correction=0)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-4)
