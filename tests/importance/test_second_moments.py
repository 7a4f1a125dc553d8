import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testing import families
from tests.conftest import FAMILIES, make_batch, make_model
from trimformer.errors import TrimformerError
from trimformer.importance.criteria import obs
from trimformer.importance.second_moments import collect_moments, group_by_memory
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.options.execution import ExecutionOptions


def collect(model, batches):
    return collect_moments(model, batches)


def tokens_of(model, batch, i):
    """Returns inputs and output gradients [length, n] of one sample's tokens, per sublayer, for two classes."""
    kept = int(batch["attention_mask"][i].sum())
    seen, handles = [], []
    for s in find_sublayers(model):
        handles.append(s.projection.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out))))
    z = model(**{key: value[i : i + 1, :kept] for key, value in model_inputs(batch).items()}).logits[0]
    for handle in handles:
        handle.remove()
    loss = (z[1] - z[0]) * z.detach().softmax(0).prod().sqrt()
    gradients = torch.autograd.grad(loss, [out for _, out in seen])
    return [(x[0].detach().double(), g[0].double()) for (x, _), g in zip(seen, gradients, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_equal_loops_over_samples_and_tokens(family):
    model, batch = make_model(family, num_labels=2), make_batch(batch=4)
    moments = collect(model, [batch])
    samples = [tokens_of(model, batch, i) for i in range(4)]
    for index, m in enumerate(moments):
        inputs, gradients = torch.zeros_like(m.inputs), torch.zeros_like(m.gradients)
        total = 0.0
        for x, g in ((x, g) for sample in samples for x, g in zip(*sample[index], strict=True)):
            weight = float(g @ g)
            inputs += weight * torch.outer(x, x)
            gradients += torch.outer(g, g)
            total += weight
        torch.testing.assert_close(m.inputs, inputs, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(m.gradients, gradients, rtol=1e-4, atol=1e-7)
        assert m.count == batch["attention_mask"].sum()
        assert m.weight_sum == pytest.approx(total, rel=1e-4)


def test_neither_batch_size_nor_padding_matters():
    model, batch = make_model(), make_batch()
    parts = []
    for rows, padding in (([3, 0], 4), ([1, 4, 2], 9)):
        part = {key: value[rows] for key, value in batch.items()}
        part["input_ids"] = torch.nn.functional.pad(part["input_ids"], (0, padding), value=1)
        part["attention_mask"] = torch.nn.functional.pad(part["attention_mask"], (0, padding))
        parts.append(part)
    for one, many in zip(collect(model, [batch]), collect(model, parts), strict=True):
        torch.testing.assert_close(one.inputs, many.inputs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.gradients, many.gradients, rtol=1e-4, atol=1e-6)
        assert one.count == many.count
        assert one.weight_sum == pytest.approx(many.weight_sum, rel=1e-4)


def test_token_norms_are_zero_on_padding_and_their_squares_sum_to_the_weight_sum():
    batches = [make_batch(seed=0), make_batch(batch=3, length=7, seed=1)]
    for m in collect(make_model(), batches):
        for norms, batch in zip(m.token_norms, batches, strict=True):
            assert norms.shape == batch["attention_mask"].shape
            assert (norms[batch["attention_mask"] == 0] == 0).all()
        assert float(sum(w.square().sum() for w in m.token_norms)) == pytest.approx(m.weight_sum, rel=1e-4)


def test_only_the_first_token_has_weight_in_a_classifiers_last_ffn():
    *_, last = collect(make_model(), [make_batch()])
    assert (last.token_norms[0][:, 1:] == 0).all()
    assert (last.token_norms[0][:, 0] > 0).all()


def test_the_model_is_not_changed():
    model, batch = make_model(), make_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, [batch])
    with pytest.raises(TrimformerError, match="needs labels"):
        collect_moments(
            model, [{key: batch[key] for key in ("input_ids", "attention_mask", "index")}], objective="labels"
        )
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_moment_that_is_not_finite_is_an_error():
    model = make_model()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    with pytest.raises(TrimformerError, match="not finite"):
        collect(model, [make_batch()])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=9), st.integers(0, 2000))
def test_groups_are_neighbours_that_fit_and_take_as_many_as_they_can(sizes, limit):
    sublayers = [SimpleNamespace(channels=channels, hidden_size=hidden) for channels, hidden in sizes]
    bytes_of = [8 * (channels**2 + hidden**2) for channels, hidden in sizes]
    groups = group_by_memory(sublayers, limit)
    assert [i for group in reversed(groups) for i in group] == list(range(len(sizes)))
    assert all(len(group) == 1 or sum(bytes_of[i] for i in group) <= limit for group in groups)
    for later, earlier in pairwise(groups):
        assert sum(bytes_of[i] for i in later) + bytes_of[earlier[-1]] > limit
    assert group_by_memory(sublayers, math.inf) == [list(range(len(sizes)))][: len(sizes)]


@pytest.mark.parametrize(
    ("family", "head"), [("Bert", "ForSequenceClassification"), ("Albert", "Model"), ("CLIP", "Model"),
                         ("Llama", "LlamaForCausalLM")]
)  # fmt: skip
def test_a_group_of_sublayers_gives_the_curves_of_all_at_once(family, head):
    model = families.make(family, head)
    batch = families.inputs(model)
    if head == families.GENERATORS.get(family):
        batch["next_tokens"] = batch["input_ids"].roll(-1, 1)
    at_once = obs(model, [batch], "curvature", ExecutionOptions())
    one_by_one = obs(model, [batch], "curvature", ExecutionOptions(max_memory=1))
    for a, b in zip(at_once.curves, one_by_one.curves, strict=True):
        assert torch.equal(a.order, b.order)
        assert torch.equal(a.error, b.error)
    for norms, others in zip(at_once.token_norms, one_by_one.token_norms, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(norms, others, strict=True))
