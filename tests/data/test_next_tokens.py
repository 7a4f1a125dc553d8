"""Next-token losses, divergences and gradients equal their plain formulas, in chunks of any size."""

import pytest
import torch
import torch.nn.functional as F

from trimformer.data import next_tokens
from trimformer.data.next_tokens import (
    compare_tokens,
    curvature_gradient,
    mean_token_losses,
    pack_top,
    token_divergences,
    token_losses,
    top_divergences,
)
from trimformer.models.layer_calls import NEXT_TOKENS


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(1)
    logits, references = (torch.randn(3, 5, 11, generator=generator) * 2 for _ in range(2))
    targets = torch.randint(11, (3, 5), generator=generator)
    targets[0, 2:], targets[1, :2] = -100, -100
    return logits, references, {NEXT_TOKENS: targets, "index": torch.tensor([4, 0, 9])}


@pytest.fixture(params=[11, 33, 2**24])
def chunks(request, monkeypatch):
    monkeypatch.setattr(next_tokens, "_MAX_PROBABILITIES", request.param)


@pytest.mark.usefixtures("chunks")
def test_losses_are_cross_entropies_of_counted_positions(case):
    logits, _, batch = case
    expected = F.cross_entropy(logits.transpose(1, 2), batch[NEXT_TOKENS], ignore_index=-100, reduction="none").sum(1)
    torch.testing.assert_close(token_losses(logits, batch).float(), expected)
    counts = (batch[NEXT_TOKENS] != -100).sum(1)
    torch.testing.assert_close(mean_token_losses(logits, batch), expected / counts)


@pytest.mark.usefixtures("chunks")
def test_divergences_are_those_of_counted_positions(case):
    logits, references, batch = case
    mask = batch[NEXT_TOKENS] != -100
    p, q = references.softmax(-1), logits.softmax(-1)
    kl = ((p * (p / q).log()).sum(-1) * mask).sum(1)
    kept = ((logits.argmax(-1) == references.argmax(-1)) & mask).sum(1)
    sums = compare_tokens(logits, references, batch)
    torch.testing.assert_close(sums[:, 0].float(), kl)
    assert sums[:, 1].tolist() == kept.tolist()
    torch.testing.assert_close(token_divergences(logits, references, batch), kl / mask.sum(1))


def test_divergences_can_be_differentiated(case):
    logits, references, batch = case
    values = logits.double().requires_grad_()
    torch.autograd.gradcheck(lambda x: token_divergences(x, references.double(), batch), values)


@pytest.mark.slow
@pytest.mark.usefixtures("chunks")
def test_curvature_gradients_have_the_outer_product_of_the_softmax(case):
    logits, _, batch = case
    gradients = torch.stack([curvature_gradient(logits, batch, seed, 1.5) for seed in range(4000)])
    assert not gradients[:, 0, 2:].any()
    measured = torch.einsum("sv,sw->vw", gradients[:, 0, 1], gradients[:, 0, 1]) / len(gradients)
    p = (logits[0, 1] / 1.5).softmax(-1)
    torch.testing.assert_close(measured, p.diag() - torch.outer(p, p), atol=0.02, rtol=0)


def test_curvature_gradients_depend_on_the_sample_and_not_on_its_batch(case):
    logits, _, batch = case
    together = curvature_gradient(logits, batch, 3, 2.0)
    for i in range(3):
        alone = curvature_gradient(logits[i : i + 1], {key: value[i : i + 1] for key, value in batch.items()}, 3, 2.0)
        assert torch.equal(together[i], alone[0])


@pytest.mark.parametrize("count", [3, 11])
def test_packed_references_give_a_lower_bound_that_is_exact_with_all_tokens(case, count):
    logits, references, batch = case
    exact = token_divergences(logits, references, batch)
    bound = top_divergences(logits, pack_top(references, count), batch)
    assert (bound <= exact + 1e-5).all()
    assert (bound >= 0).all()
    if count == 11:
        torch.testing.assert_close(bound, exact, rtol=1e-3, atol=1e-4)
