import copy
import tempfile

import pytest
import torch

from tests.conftest import FAMILIES, make_batch, make_model, random_masks
from trimformer.checkpoints.shrink import shrink
from trimformer.importance.second_moments import collect_moments
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.regression_moments import HELD_OUT_EVERY, MomentSums
from trimformer.refit.walk import walk

FIELDS = ("xx", "xy", "x", "y", "yy", "count")


def pruned(model, seed=0):
    student = copy.deepcopy(model)
    shrink(student, random_masks(model, seed))
    return student


def watched(model, batch):
    """Per sublayer, in float64: the projection's input and output and the residual sum, each [batch, length, n]."""
    model = copy.deepcopy(model).double()
    sublayers = find_sublayers(model)
    seen = [{} for _ in sublayers]
    for s, into in zip(sublayers, seen, strict=True):
        s.projection.register_forward_hook(lambda _, inputs, out, d=into: d.update(x=inputs[0], out=out))
        s.entry.register_forward_pre_hook(lambda _, inputs, d=into: d.update(stream=inputs[0]))
    with torch.no_grad():
        model(**model_inputs(batch))
    return seen


def full_matrices(teacher, student, batch):
    """Per sublayer the student's inputs and the targets, [tokens, n]: no padding."""
    tokens = batch["attention_mask"].bool()
    for above, below in zip(watched(teacher, batch), watched(student, batch), strict=True):
        target = above["out"] + above["stream"] - below["stream"]
        yield below["x"][tokens], target[tokens]


def sums(x, y, weights):
    w = weights.unsqueeze(1)
    values = (x.T @ (w * x), x.T @ (w * y), (w * x).sum(0), (w * y).sum(0), (w * y * y).sum(), weights.sum())
    return dict(zip(FIELDS, values, strict=True))


def assert_moments(moments, expected, **tolerance):
    for name in FIELDS:
        torch.testing.assert_close(getattr(moments, name), expected[name].double(), **tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_equal_those_of_full_matrices(family):
    teacher, batch = make_model(family), make_batch(batch=11)
    student = pruned(teacher)
    held_out = (batch["index"] % HELD_OUT_EVERY == 0).unsqueeze(1).expand_as(batch["attention_mask"])
    held_out = held_out[batch["attention_mask"].bool()]
    steps = walk(teacher, student, [batch])
    for step, (x, y) in zip(steps, full_matrices(teacher, student, batch), strict=True):
        assert_moments(step.held_out, sums(x, y, held_out.double()), rtol=1e-4, atol=1e-3)
        assert_moments(step.fit, sums(x, y, (~held_out).double()), rtol=1e-4, atol=1e-3)


def test_many_batches_give_what_one_gives():
    teacher, batch = make_model(), make_batch(batch=9)
    student = pruned(teacher)
    parts = [{key: value[rows] for key, value in batch.items()} for rows in ([5, 0, 1], [8, 2], [3, 4, 6, 7])]
    for one, many in zip(walk(teacher, student, [batch]), walk(teacher, student, parts), strict=True):
        for name in ("fit", "held_out"):
            assert_moments(getattr(many, name), vars(getattr(one, name)), rtol=1e-5, atol=1e-4)


def test_equal_models_have_targets_equal_to_the_projections_output():
    teacher, batch = make_model(), make_batch(batch=9)
    for step in walk(teacher, copy.deepcopy(teacher), [batch]):
        projection = step.sublayer.projection
        power = float(step.fit.yy / step.fit.count)
        assert step.fit.error(projection.weight, projection.bias) < 1e-6 * power


@pytest.mark.parametrize("family", FAMILIES)
def test_the_walk_goes_on_with_the_projections_changed_on_the_way(family):
    teacher, batch = make_model(family), make_batch()
    student = pruned(teacher)
    inputs = []
    for step in walk(teacher, student, [batch]):
        inputs.append(step.fit.x + step.held_out.x)
        with torch.no_grad():
            step.sublayer.projection.weight.mul_(1.3)
            step.sublayer.projection.bias.add_(0.2)
    for x, (expected, _) in zip(inputs, full_matrices(teacher, student, batch), strict=True):
        torch.testing.assert_close(x, expected.sum(0), rtol=1e-4, atol=1e-3)


def test_token_weights_weigh_tokens_and_zero_leaves_one_out():
    teacher, batch = make_model(), make_batch(batch=9)
    student, mask = pruned(teacher), batch["attention_mask"].bool()
    weights = torch.rand(6, *mask.shape) * mask
    weights[:, :, 1] = 0
    steps = walk(teacher, student, [batch], token_weights=lambda sublayer, _, mask: weights[sublayer])
    for step, (x, y) in zip(steps, full_matrices(teacher, student, batch), strict=True):
        expected = sums(x, y, weights[step.index][mask].double())
        assert_moments(step.fit + step.held_out, expected, rtol=1e-4, atol=1e-3)


def test_error_is_the_weighted_mean_squared_error():
    generator = torch.Generator().manual_seed(0)
    x, y, weights = (torch.rand(*shape, generator=generator) for shape in ((30, 4), (30, 3), (30,)))
    weight, bias = torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator)
    sums = MomentSums(4, 3, torch.device("cpu"))
    sums.add(x, y, weights)
    for b in (bias, None):
        residual = (x @ weight.T + (0 if b is None else b) - y).square().sum(1)
        expected = float(residual @ weights / weights.sum())
        assert sums.moments().error(weight, b) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def tripled(steps):
    """The moments of every step; on the way projections are changed."""
    for step in steps:
        yield from vars(step.fit).values()
        yield from vars(step.held_out).values()
        with torch.no_grad():
            step.sublayer.projection.weight.mul_(3)


# Two streams of 24 floats, and what attention added, for each of 2 x 5 x 12 tokens; with 40 channels it is more.
@pytest.mark.parametrize("max_memory", [0, 4 * 24 * 120 * 4, 4 * 24 * 120 * 4 - 1])
@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_a_limit_of_memory_changes_nothing(family, max_memory, temporary):
    teacher, batches = make_model(family), [make_batch(), make_batch(seed=1)]
    plain, limited = pruned(teacher), pruned(teacher)
    on_disk = []

    def watch(pairs, _):
        for pair in pairs:
            yield pair
            on_disk.append(bool(list(temporary.rglob("*.pt"))))

    steps = walk(teacher, limited, batches, run=ExecutionOptions(max_memory=max_memory, progress=watch))
    for one, other in zip(tripled(walk(teacher, plain, batches)), tripled(steps), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), limited.parameters(), strict=True))
    assert on_disk == [max_memory < 4 * 24 * 120 * 4] * 6
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_of_known_outputs_does_not_run(family):
    """Its weights are not numbers, so that a run would show; other families are in tests/models/test_families.py."""
    teacher, batches = make_model(family), [make_batch(), make_batch(seed=1)]
    outputs = [m.outputs for m in collect_moments(teacher, batches, keep_outputs=range(6))]
    before = copy.deepcopy(outputs)
    broken, plain, student = copy.deepcopy(teacher), pruned(teacher), pruned(teacher)
    with torch.no_grad():
        for sublayer in find_sublayers(broken):
            for linear in (sublayer.projection, *(producer.linear for producer in sublayer.producers)):
                linear.weight.fill_(torch.nan)
    steps = walk(broken, student, batches, teacher_outputs=outputs)
    for one, other in zip(tripled(walk(teacher, plain, batches)), tripled(steps), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(a, b) for pair in zip(outputs, before, strict=True) for a, b in zip(*pair, strict=True))


def test_known_outputs_count_as_memory(temporary):
    teacher, batch = make_model(), make_batch()
    outputs = [m.outputs for m in collect_moments(teacher, [batch], keep_outputs=range(6))]
    size = sum(output.nbytes for of_sublayer in outputs for output in of_sublayer)
    bound = 4 * 24 * 60 * 4 + 40 * 60 * 4  # two streams of 24 floats, what attention added, and channels
    for more, on_disk in ((0, True), (size, False)):
        run = ExecutionOptions(max_memory=bound + more)
        steps = walk(teacher, pruned(teacher), [batch], teacher_outputs=outputs, run=run)
        next(steps)
        assert bool(list(temporary.rglob("*.pt"))) == on_disk


@pytest.mark.parametrize("leave", ["raise", "close"])
def test_temporary_files_are_gone_when_a_walk_ends_early(temporary, leave):
    teacher, batch = make_model(), make_batch()
    steps = walk(teacher, pruned(teacher), [batch], run=ExecutionOptions(max_memory=0))
    next(steps)
    assert list(temporary.rglob("*.pt"))
    if leave == "close":
        steps.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyError):
            steps.throw(KeyError())  # type: ignore[attr-defined]
    assert not list(temporary.iterdir())


def test_the_walk_leaves_both_models_as_they_were():
    teacher, batch = make_model().train(), make_batch()
    student = pruned(teacher).train()
    before = [p.clone() for p in student.parameters()]
    list(walk(teacher, student, [batch]))
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    for model in (teacher, student):
        assert all(module.training for module in model.modules())
        assert all(p.requires_grad for p in model.parameters())
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
