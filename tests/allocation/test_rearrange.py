import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimformer.allocation.rearrange import rearrange_mask


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    units, samples = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    mask = (torch.rand(units, generator=generator) > draw(st.floats(0, 1))).float()
    return mask, torch.randn(samples, units, generator=generator)


def loss(grads, pruned):
    return float(grads.double()[:, sorted(pruned)].sum(1).norm() ** 2)


def literal(mask, grads):
    """Implements section 4.2 literally."""
    importance = grads.double().square().sum(0)
    pruned = {j for j in range(len(mask)) if mask[j] == 0}
    if not pruned:
        return mask
    for unit in sorted(set(range(len(mask))) - pruned, key=lambda j: float(importance[j])):
        pruned |= {unit}
        pruned -= {min(sorted(pruned), key=lambda j: loss(grads, pruned - {j}))}
    return torch.tensor([float(j not in pruned) for j in range(len(mask))])


@given(case=cases())
@settings(max_examples=80, deadline=None)
def test_equals_a_literal_transcription(case):
    mask, grads = case
    assert rearrange_mask(mask, grads).tolist() == literal(mask, grads).tolist()


@given(case=cases())
@settings(max_examples=80, deadline=None)
def test_keeps_the_count_and_never_raises_the_loss(case):
    mask, grads = case
    before = mask.clone()
    rearranged = rearrange_mask(mask, grads)
    assert torch.equal(mask, before)
    assert rearranged.sum() == mask.sum()
    was, now = (loss(grads, (m == 0).nonzero().flatten().tolist()) for m in (mask, rearranged))
    assert now <= was + 1e-9


def test_opposed_gradients_are_pruned_together():
    grads = torch.tensor([[1.0, 5.0, -5.0]])
    assert rearrange_mask(torch.tensor([0.0, 0.0, 1.0]), grads).tolist() == [1.0, 0.0, 0.0]
