import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from tests.conftest import FAMILIES, make_batch, make_model
from trimformer.data.outputs import divergence, find_problem, model_output
from trimformer.errors import TrimformerError
from trimformer.importance.fisher import collect_mask_grads
from trimformer.importance.objective import TEMPERATURE, curvature_losses, supervised_losses
from trimformer.models.layer_calls import model_inputs

SHAPES = {
    "single_label": (3,),
    "multi_label": (3,),
    "regression": (1,),
    "tokens": (12, 3),
    "span": (12, 2),
    "embedding": (24,),
}
SEQUENCE, TOKENS, SPAN = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"


def full_batch(**labels):
    """Returns four samples without padding."""
    batch = make_batch(batch=4, labels=None)
    ids = torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(0))
    return batch | {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | labels


def output_for(problem, seed=0, batch=5):
    return torch.randn(batch, *SHAPES[problem], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("problem", "head", "config", "labels"),
    [
        ("single_label", SEQUENCE, {}, {"labels": torch.tensor([0, 2, 1, 1])}),
        ("multi_label", SEQUENCE, {"problem_type": "multi_label_classification"}, {"labels": torch.eye(4)[:, :3]}),
        ("regression", SEQUENCE, {"num_labels": 1}, {"labels": torch.tensor([0.5, -1.0, 2.0, 0.0])}),
        ("tokens", TOKENS, {}, {"labels": torch.arange(48).view(4, 12) % 3}),
        ("span", SPAN, {}, {"start_positions": torch.arange(4), "end_positions": torch.arange(4) + 5}),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_mean_loss_is_the_models_own(family, problem, head, config, labels):
    model, batch = make_model(family, head, **config), full_batch(**labels)
    assert find_problem(model) == problem
    own = model(**model_inputs(batch), **labels).loss
    output = model_output(model, batch, problem)
    torch.testing.assert_close(supervised_losses(output, batch, problem).mean(), own)


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_is_the_mean_over_tokens_that_are_not_padding(family):
    model, batch = make_model(family, "Model"), make_batch()
    assert find_problem(model) == "embedding"
    states = model(**model_inputs(batch)).last_hidden_state
    for i, embedding in enumerate(model_output(model, batch, "embedding")):
        torch.testing.assert_close(embedding, states[i, : batch["attention_mask"][i].sum()].mean(0))


def test_unsupported_heads_are_an_error_that_names_the_class():
    model = BertForPreTraining(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9))
    with pytest.raises(TrimformerError, match="BertForPreTraining"):
        find_problem(model)


@pytest.mark.parametrize("problem", ["tokens", "span"])
@pytest.mark.parametrize("loss", ["labels", "curvature", "divergence"])
def test_outputs_at_padding_do_not_count(problem, loss):
    batch, output = make_batch(labels=None), output_for(problem)
    padding = batch["attention_mask"] == 0
    batch["labels"] = torch.zeros_like(padding, dtype=torch.long).masked_fill(padding, -100)
    batch["start_positions"], batch["end_positions"] = torch.zeros(5).long(), batch["attention_mask"].sum(1) - 1
    changed = output + 5 * torch.randn(output.shape) * padding.unsqueeze(-1)
    measure = {
        "labels": lambda o: supervised_losses(o, batch, problem),
        "curvature": lambda o: curvature_losses(o, batch, problem),
        "divergence": lambda o: divergence(o, output_for(problem, seed=1), batch, problem),
    }[loss]
    assert padding.any()
    assert measure(output).all()
    torch.testing.assert_close(measure(changed), measure(output))


@pytest.mark.parametrize("problem", SHAPES)
def test_divergence_is_zero_if_and_only_if_outputs_are_equal(problem):
    batch, output = make_batch(), output_for(problem)
    torch.testing.assert_close(divergence(output, output.clone(), batch, problem), torch.zeros(5), atol=1e-6, rtol=0)
    for seed in range(1, 4):
        assert (divergence(output_for(problem, seed), output, batch, problem) > 1e-4).all()


def test_divergence_is_the_kl_from_the_reference():
    output, reference = output_for("single_label", 0), output_for("single_label", 1)
    p, q = reference.softmax(-1), output.softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(divergence(output, reference, make_batch(), "single_label"), kl)
    p, q = reference.sigmoid(), output.sigmoid()
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(-1)
    torch.testing.assert_close(divergence(output, reference, make_batch(), "multi_label"), kl)


def squared_gradients(problem, logits, count=6000, seed=0):
    """Returns the mean of g g^T over many draws for one output, g flattened."""
    output = logits.expand(count, *logits.shape).clone().requires_grad_()
    batch = {"index": torch.arange(count), "attention_mask": torch.ones(count, logits.shape[0])}
    gradients = torch.autograd.grad(curvature_losses(output, batch, problem, seed).sum(), output)[0].flatten(1)
    return gradients.T @ gradients / count


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression", "tokens", "span"])
def test_squared_gradients_are_on_average_the_curvature_of_the_loss(problem):
    logits = torch.randn(
        {"tokens": (4, 3), "span": (4, 2)}.get(problem, (3,)), generator=torch.Generator().manual_seed(0)
    )
    if problem == "multi_label":
        p = logits.sigmoid()
        exact = (p * (1 - p)).diag()
    elif problem == "regression":
        exact = torch.eye(3)
    else:
        rows = (torch.atleast_2d(logits.mT if problem == "span" else logits) / TEMPERATURE).softmax(-1)
        exact = torch.block_diag(*(p.diag() - torch.outer(p, p) for p in rows))
        if problem == "span":  # start and end alternate in the flat output
            exact = exact.view(2, 4, 2, 4).permute(1, 0, 3, 2).reshape(8, 8)
    torch.testing.assert_close(squared_gradients(problem, logits), exact, atol=0.03, rtol=0)


def test_two_classes_and_regression_are_deterministic():
    logits = torch.tensor([0.3, 1.0])
    p = logits.softmax(0)
    torch.testing.assert_close(squared_gradients("single_label", logits, 2), p.diag() - torch.outer(p, p))
    assert squared_gradients("regression", torch.tensor([0.7]), 2).tolist() == [[1.0]]


def test_opposite_regression_outputs_do_not_cancel():
    model, count = make_model(num_labels=2, problem_type="regression"), 256
    batch = {key: value[:1].expand(count, -1) for key, value in make_batch(labels=None).items() if key != "index"}
    batch["index"] = torch.arange(count)
    with torch.no_grad():
        model.classifier.weight[1], model.classifier.bias[1] = -model.classifier.weight[0], -model.classifier.bias[0]
    both = collect_mask_grads(model, [batch], objective="curvature")
    single = collect_mask_grads(model, [batch], objective=lambda output, _: output[:, 0])
    for grads, one_output in zip(both, single, strict=True):
        expected = 2 * one_output.square().mean(0)  # sum over outputs of g g^T, on its diagonal
        assert expected.any()
        torch.testing.assert_close(grads.square().mean(0), expected, rtol=0.2, atol=1e-9)


@pytest.mark.parametrize("problem", SHAPES)
def test_curvature_losses_read_no_labels(problem):
    batch, output = make_batch(), output_for(problem)
    unlabelled = {key: value for key, value in batch.items() if key != "labels"}
    assert torch.equal(curvature_losses(output, batch, problem), curvature_losses(output, unlabelled, problem))


@pytest.mark.parametrize("problem", SHAPES)
def test_missing_labels_are_an_error(problem):
    with pytest.raises(TrimformerError, match="labels"):
        supervised_losses(output_for(problem), make_batch(labels=None), problem)
