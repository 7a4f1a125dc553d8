import pytest
import torch

from tests.conftest import make_batch, make_model
from trimformer.data.outputs import find_problem
from trimformer.errors import TrimformerError
from trimformer.importance.fisher import collect_mask_grads, compute_fisher_info
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.models.masking import MaskUnits

# problem: head, config
MODELS = {
    "single_label": ("ForSequenceClassification", {}),
    "multi_label": ("ForSequenceClassification", {"problem_type": "multi_label_classification"}),
    "regression": ("ForSequenceClassification", {"num_labels": 1}),
    "tokens": ("ForTokenClassification", {}),
    "span": ("ForQuestionAnswering", {}),
    "embedding": ("Model", {}),
}
LABELLED = [problem for problem in MODELS if problem != "embedding"]


def model_for(problem, family="Bert", **overrides):
    head, config = MODELS[problem]
    model = make_model(family, head, **{**config, **overrides})
    assert find_problem(model) == problem
    return model


def batch_for(problem, size=5, length=12):
    batch = make_batch(size, length, labels=None)
    generator = torch.Generator().manual_seed(1)
    mask = batch["attention_mask"]
    if problem == "span":
        ends = mask.sum(1)
        batch["start_positions"] = torch.rand(size, generator=generator).mul(ends).long()
        batch["end_positions"] = torch.rand(size, generator=generator).mul(ends).long()
    elif problem == "tokens":
        labels = torch.randint(3, mask.shape, generator=generator)
        batch["labels"] = labels.masked_fill((mask == 0) | (torch.arange(length) % 4 == 0), -100)
    elif problem == "multi_label":
        batch["labels"] = torch.randint(2, (size, 3), generator=generator).float()
    elif problem == "regression":
        batch["labels"] = torch.randn(size, generator=generator)
    elif problem == "single_label":
        batch["labels"] = torch.randint(3, (size,), generator=generator)
    return batch


def take(batch, rows, padding=0):
    """Selects samples of a batch and adds padding."""
    taken = {key: value[rows] for key, value in batch.items()}
    fill = {"input_ids": 1, "attention_mask": 0, "labels": -100}
    for key, value in fill.items():
        if key in taken and taken[key].dim() == 2 and taken[key].shape[1] == batch["input_ids"].shape[1]:
            taken[key] = torch.nn.functional.pad(taken[key], (0, padding), value=value)
    return taken


def alone(batch, i):
    """Returns one sample without its padding."""
    length = batch["input_ids"].shape[1]
    kept = int(batch["attention_mask"][i].sum())
    return {
        key: value[i : i + 1, :kept] if value.dim() == 2 and value.shape[1] == length else value[i : i + 1]
        for key, value in batch.items()
    }


@pytest.mark.parametrize("problem", LABELLED)
def test_per_sample_grads_equal_single_backward_passes_of_the_models_own_loss(problem):
    model, batch = model_for(problem), batch_for(problem)
    grads, sublayers = collect_mask_grads(model, [batch]), find_sublayers(model)
    for i in range(5):
        masks = [torch.ones(s.num_units, requires_grad=True) for s in sublayers]
        sample = alone(batch, i)
        del sample["index"]
        with MaskUnits(sublayers, masks):
            loss = model(**sample).loss
        for grad, expected in zip(grads, torch.autograd.grad(loss, masks), strict=True):
            torch.testing.assert_close(grad[i], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("problem", "objective"), [*((p, "labels") for p in LABELLED), *((p, "curvature") for p in MODELS)]
)
def test_grads_depend_on_neither_batch_size_nor_order_nor_padding(problem, objective):
    model, batch = model_for(problem), batch_for(problem)
    split = [take(batch, torch.tensor([4, 1]), padding=3), take(batch, torch.tensor([2, 0, 3]), padding=20)]
    together = collect_mask_grads(model, [batch], objective=objective, seed=3)
    apart = collect_mask_grads(model, split, objective=objective, seed=3)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one[[4, 1, 2, 0, 3]], other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("problem", LABELLED)
def test_batch_grads_are_the_mean_of_the_samples(problem):
    model, batch = model_for(problem), batch_for(problem)
    for grad, mean in zip(
        collect_mask_grads(model, [batch]), collect_mask_grads(model, [batch], per_sample=False), strict=True
    ):
        torch.testing.assert_close(grad.mean(0, keepdim=True), mean, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "tokens", "span", "embedding"])
def test_label_free_gradients_depend_on_the_seed(problem):
    model, batch = model_for(problem), batch_for(problem)
    first, again, other = (collect_mask_grads(model, [batch], objective="curvature", seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_two_class_curvature_grads_sum_to_the_exact_gauss_newton():
    model, batch = model_for("single_label", num_labels=2), batch_for("embedding", size=4)
    sublayers = find_sublayers(model)
    grads = torch.cat(collect_mask_grads(model, [batch], objective="curvature"), dim=1)
    exact = torch.zeros(grads.shape[1], grads.shape[1])
    for i in range(4):
        masks = [torch.ones(s.num_units, requires_grad=True) for s in sublayers]
        with MaskUnits(sublayers, masks):
            logits = model(**model_inputs(alone(batch, i))).logits[0]
        rows = [torch.cat(torch.autograd.grad(z, masks, retain_graph=True)) for z in logits]
        jacobian, p = torch.stack(rows), logits.detach().softmax(0)
        exact += jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
    torch.testing.assert_close(grads.T @ grads, exact, atol=1e-6, rtol=1e-3)


def test_collecting_does_not_change_the_model():
    model, batch = model_for("single_label").train(), batch_for("single_label")
    model.classifier.weight.requires_grad_(False)
    collect_mask_grads(model, [batch])
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.classifier.parameters()] == [False, True]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_grads_are_computed_inside_no_grad():
    model, batch = model_for("single_label"), batch_for("single_label")
    with torch.no_grad():
        assert collect_mask_grads(model, [batch])[0].abs().sum() > 0


def test_nan_weights_are_an_error_that_names_the_sublayer():
    model, batch = model_for("single_label"), batch_for("single_label")
    with torch.no_grad():
        model.classifier.weight[0, 0] = torch.nan
    with pytest.raises(TrimformerError, match="layer 0 attention are not finite"):
        collect_mask_grads(model, [batch])


def test_labels_objective_without_labels_is_an_error():
    model = model_for("embedding")
    with pytest.raises(TrimformerError, match="labels"):
        collect_mask_grads(model, [batch_for("embedding")])


def test_fisher_information_is_the_sum_of_squares():
    grads = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    assert compute_fisher_info(grads).tolist() == [10.0, 20.0]
