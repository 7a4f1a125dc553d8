"""Query heads of grouped-query attention: curves, exact allocation, removal, saving and generation."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

import trimformer
from testing.language import byte_tokenizer, language_model
from trimformer.allocation.allocations import select_queries
from trimformer.checkpoints.shrink import record_widths
from trimformer.costs.cost_tables import linear_costs
from trimformer.costs.macs import model_macs
from trimformer.data.tasks import LanguageTask
from trimformer.importance.criteria import obs
from trimformer.importance.obs import obs_curve, query_curves
from trimformer.importance.second_moments import SublayerMoments
from trimformer.models import find_sublayers
from trimformer.models.masking import MaskUnits, register_mask
from trimformer.models.removal import keep_queries, unit_channels
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import Method
from trimformer.pruner import Pruner

METHOD = Method(query_heads=True)
FAMILIES = [("Llama", {}), ("Qwen2", {}), ("Mistral", {}), ("Qwen3", {"head_dim": 8}), ("Gemma2", {"head_dim": 8})]


def moments_of(units, queries, size, hidden, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(400, n, generator=generator, dtype=torch.float64) for n in (units * queries * size, hidden))
    x = x @ torch.randn(x.shape[1], x.shape[1], generator=generator, dtype=torch.float64)
    weight = torch.randn(hidden, x.shape[1], generator=generator, dtype=torch.float64)
    return SublayerMoments(x.T @ x, g.T @ g, 400, 400.0, []), weight


def loss_of(moments, weight, channels, ridge=1e-3):
    """The increase of the loss if these channels are removed and all others are corrected for it, solved directly."""
    h = moments.inputs / moments.weight_sum
    h = h + ridge * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    g = moments.gradients / moments.count
    inverse = torch.linalg.inv(h)
    w = weight[:, channels]
    return float(0.5 * torch.trace(g @ w @ torch.linalg.inv(inverse[channels][:, channels]) @ w.T))


def test_errors_of_lost_query_heads_equal_the_direct_solution():
    units, queries, size = 3, 3, 2
    moments, weight = moments_of(units, queries, size, 5)
    for narrow in query_curves(moments, weight, queries * size, queries):
        gone = unit_channels((~narrow.kept).flatten().nonzero().flatten(), size)
        assert narrow.kept.sum(1).tolist() == [int(narrow.kept[0].sum())] * units
        assert float(narrow.curve.error[units]) == pytest.approx(loss_of(moments, weight, gone), rel=1e-6)
    everything = obs_curve(moments, weight, queries * size)
    assert float(narrow.curve.error[0]) == pytest.approx(float(everything.error[0]), rel=1e-2)


def test_the_first_lost_query_heads_are_the_cheapest_of_their_units():
    units, queries, size = 2, 3, 2
    moments, weight = moments_of(units, queries, size, 4, seed=3)
    first = query_curves(moments, weight, queries * size, queries)[0]
    for unit, kept in enumerate(first.kept):
        losses = [
            loss_of(moments, weight, unit_channels(torch.tensor([unit * queries + q]), size)) for q in range(queries)
        ]
        assert (~kept).nonzero().item() == losses.index(min(losses))


def test_the_selection_is_the_best_within_the_budget():
    model = language_model(num_attention_heads=8, num_hidden_layers=2, intermediate_size=6, head_dim=4)
    sublayers = find_sublayers(model)
    curves = obs(model, [batch_of(model)], "curvature", ExecutionOptions(), query_heads=True).curves
    costs = linear_costs(sublayers, "mac", 12)
    levels = []
    for curve, dense, narrow in zip(curves, costs.levels, costs.narrow, strict=True):
        every = [(float(e), float(c)) for e, c in zip(curve.error, dense, strict=True)]
        for n in curve.fewer_queries:
            pairs = zip(n.curve.error, narrow[int(n.kept[0].sum()) - 1], strict=True)
            every += [(float(e), float(c)) for e, c in pairs]
        levels.append(every)
    for constraint in (0.35, 0.6, 0.85):
        selection = select_queries(sublayers, curves, costs, constraint, 1)
        assert selection.cost <= constraint * costs.dense * (1 + 1e-9)
        best = min(sum(e for e, _ in each) for each in product(*levels)
                   if sum(c for _, c in each) <= constraint * costs.dense * (1 - 1e-3))  # fmt: skip
        assert sum(selection.predicted) <= best * (1 + 1e-9)


def batch_of(model, rows=6, length=14):
    ids = torch.randint(2, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "next_tokens": targets,
            "index": torch.arange(rows)}  # fmt: skip


@pytest.mark.parametrize(("family", "sizes"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_masked_query_heads_equal_removed_ones_in_one_pass_and_with_a_cache(family, sizes):
    model = language_model(family, num_attention_heads=6, hidden_size=24, **sizes)
    sublayers = find_sublayers(model)
    attention = [s for s in sublayers if s.kind == "attention"]
    assert all(s.queries == 3 for s in attention)
    kept = torch.tensor([[True, False, True], [False, True, True]])
    ids = torch.arange(2, 12).unsqueeze(0)
    handle = register_mask(attention[1].projection, kept.flatten().float(), attention[1].unit_size // 3)
    with torch.no_grad(), MaskUnits(sublayers, [torch.ones(s.num_units) for s in sublayers]):
        masked = model(ids).logits
    handle.remove()
    keep_queries(attention[1], kept)
    narrowed = [s for s in find_sublayers(model) if s.kind == "attention"]
    assert [s.queries for s in narrowed] == [3, 2, 3]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, masked, atol=1e-5, rtol=1e-5)
        cache = DynamicCache(config=model.config)
        steps = [model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), masked, atol=1e-4, rtol=1e-4)


def test_costs_of_fewer_query_heads_are_those_of_the_narrowed_model():
    model = language_model(num_attention_heads=6, hidden_size=24)
    costs = linear_costs(find_sublayers(model), "mac", 12)
    parameters = linear_costs(find_sublayers(model), "parameters", 12)
    before = sum(p.numel() for p in model.parameters())
    attention = find_sublayers(model)[0]
    keep_queries(attention, torch.tensor([[True, False, False], [False, True, False]]))
    saved = costs.levels[0][2] - costs.narrow[0][0][2]
    assert costs.dense - saved == pytest.approx(model_macs(find_sublayers(model), 12))
    saved = parameters.levels[0][2] - parameters.narrow[0][0][2]
    assert before - saved == sum(p.numel() for p in model.parameters())


def test_a_model_with_fewer_query_heads_is_saved_loaded_and_generates(tmp_path):
    model, tokenizer = language_model(num_attention_heads=8, tie_word_embeddings=True), byte_tokenizer()
    texts = ["the cat sat on the mat, and so did the dog. " * 3] * 14
    task = LanguageTask(name="language", max_length=64)
    result = trimformer.prune(model, tokenizer, texts, 0.45, num_samples=8, task=task, method=METHOD)
    assert result.budget.kept <= 0.45
    assert any(number is not None for number in result.queries)
    trimformer.save(result.model, tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"]
    answers = [m.generate(ids, max_new_tokens=10, do_sample=False).tolist() for m in (result.model, loaded)]
    assert answers[0] == answers[1]
    trimformer.save(loaded, tokenizer, tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "out" / "config.json").read_text()


def test_query_heads_lower_the_predicted_loss():
    model = language_model(num_attention_heads=8)
    batch = batch_of(model)
    costs = linear_costs(find_sublayers(model), "mac", 14)
    pruner = Pruner(model, [batch], METHOD, neuron_multiple=8)
    fine = pruner(costs, 0.6)
    coarse = pruner(replace(costs, narrow=()), 0.6)
    assert fine.cost <= 0.6 * costs.dense
    assert sum(fine.predicted) <= sum(coarse.predicted)
    assert all(kept is None for kept in coarse.queries)
    assert all(kept is None for kept in Pruner(model, [batch], Method(), neuron_multiple=8)(costs, 0.6).queries)


def test_methods_that_cannot_remove_query_heads_refuse_to():
    with pytest.raises(trimformer.TrimformerError, match="leave out query_heads"):
        Method(update="none", query_heads=True)


def test_wrong_numbers_of_query_heads_in_a_config_are_refused(tmp_path):
    model, tokenizer = language_model(num_attention_heads=6, hidden_size=24), byte_tokenizer()
    keep_queries(find_sublayers(model)[0], torch.tensor([[True, False, True]] * 2))
    trimformer.shrink(model, [torch.ones(s.num_units) for s in find_sublayers(model)])
    trimformer.save(model, tokenizer, tmp_path / "out")
    config = (tmp_path / "out" / "config.json").read_text()
    for wrong in ("[9,3,3]", "[2,3]", '["2",3,3]'):
        text = config.replace('"queries": [\n      2,\n      3,\n      3\n    ]', f'"queries": {wrong}')
        assert text != config
        (tmp_path / "out" / "config.json").write_text(text)
        with pytest.raises(trimformer.TrimformerError, match="queries in the config"):
            trimformer.load(tmp_path / "out")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_standalone_layer_with_one_query_head_for_each_group_takes_padding(tmp_path, attention):
    model, tokenizer = language_model(), byte_tokenizer()
    sublayer = next(s for s in find_sublayers(model) if s.queries > 1)
    keep_queries(sublayer, torch.tensor([[True] + [False] * (sublayer.queries - 1)] * sublayer.num_units))
    record_widths(model)
    trimformer.save(model, tokenizer, tmp_path / "out", standalone=True)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=True, attn_implementation=attention
    )
    ids = torch.arange(2, 34).view(2, 16)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=mask).logits[mask.bool()] for m in (model, loaded))
    assert torch.allclose(ours, theirs, atol=1e-5)
