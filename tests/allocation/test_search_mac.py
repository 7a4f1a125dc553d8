import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimformer.allocation.search_mac import search_units
from trimformer.errors import TrimformerError
from trimformer.paper import compute_mac, compute_mask_mac, search_mac

SIZES = {"seq_len": 3, "hidden_size": 4, "attention_head_size": 2}
SUBSETS = np.array(list(product([0, 1], repeat=10)))  # 4 heads, then 6 neurons
MACS = np.array([compute_mac([s[:4].sum()], [s[4:].sum()], **SIZES) for s in SUBSETS])
# The smallest selection is one neuron; search_mac rejects smaller constraints.
CONSTRAINTS = st.floats(0.05, 1.0)
SCORES = st.lists(st.integers(0, 5), min_size=10, max_size=10)


def search(scores, constraint):
    values = torch.tensor(scores, dtype=torch.float32)
    return search_mac(values[:4].view(2, 2), values[4:].view(2, 3), constraint=constraint, **SIZES)


@given(scores=SCORES, constraint=CONSTRAINTS)
@settings(max_examples=60, deadline=None)
def test_total_importance_equals_brute_force_and_macs_never_exceed(scores, constraint):
    heads, neurons = search(scores, constraint)
    kept = torch.cat([*heads, *neurons]).numpy()
    budget = constraint * MACS.max()
    assert compute_mask_mac(heads, neurons, **SIZES) <= budget * (1 + 1e-9)
    assert kept @ scores == (SUBSETS @ scores)[budget * (1 + 1e-9) >= MACS].max()


@given(scores=SCORES)
@settings(max_examples=20, deadline=None)
def test_constraint_one_keeps_everything(scores):
    heads, neurons = search(scores, 1.0)
    assert torch.cat([*heads, *neurons]).tolist() == [1.0] * 10


@given(constraint=st.floats(0.3, 1.0), shift=st.floats(0, 0.5))
@settings(max_examples=20, deadline=None)
def test_a_larger_budget_never_keeps_less_importance(constraint, shift):
    scores = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    gains = []
    for c in (constraint - shift / 2, constraint):
        heads, neurons = search(scores.tolist(), c)
        gains.append(torch.cat([*heads, *neurons]).numpy() @ scores)
    assert gains[0] <= gains[1]


def test_layers_of_different_width_keep_their_widths():
    heads, neurons = [torch.rand(3), torch.rand(0), torch.rand(2)], [torch.rand(5), torch.rand(7), torch.rand(0)]
    kept = search_mac(heads, neurons, constraint=0.5, **SIZES)
    assert [[len(mask) for mask in masks] for masks in kept] == [[3, 0, 2], [5, 7, 0]]


@pytest.mark.parametrize("constraint", [0.3, 0.5, 0.8])
def test_ties_keep_the_first_units(constraint):
    heads, neurons = search([1] * 10, constraint)
    for mask in (torch.cat(heads), torch.cat(neurons)):
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)


@pytest.mark.parametrize("neurons", [1, 5, 37, 400, 3072, 36_864])
def test_unreachable_names_a_constraint_that_can_be_reached(neurons):
    sizes = {"seq_len": 39.05, "hidden_size": 24, "attention_head_size": 6}
    importance = [torch.rand(4)], [torch.rand(neurons)]
    with pytest.raises(TrimformerError, match="smallest reachable") as error:
        search_mac(*importance, constraint=1e-7, **sizes)
    smallest = float(re.search(r"smallest reachable is ([\d.e-]+)", str(error.value))[1])
    heads, kept = search_mac(*importance, constraint=smallest, **sizes)
    assert torch.cat([*heads, *kept]).sum() >= 1
    with pytest.raises(TrimformerError):
        search_mac(*importance, constraint=smallest * 0.8, **sizes)


@pytest.mark.parametrize("none", ["heads", "neurons"])
def test_a_missing_kind_does_not_lower_the_smallest_constraint(none):
    units = {"heads": [torch.ones(4)], "neurons": [torch.ones(4)]} | {none: []}
    costs = {"head_cost": 100.0, "neuron_cost": 100.0} | {none.removesuffix("s") + "_cost": 1.0}
    with pytest.raises(TrimformerError, match=r"smallest reachable is 0\.251"):
        search_units(**units, **costs, constraint=0.2)
