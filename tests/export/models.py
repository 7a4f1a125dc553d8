"""Tiny models and batches for the tests of exported files."""

import torch
from transformers import PreTrainedModel

from tests.conftest import HEADS, make_batch, make_model, pruned
from trimformer.models import find_sublayers

CLASSES, TOKENS, SPAN, BARE = HEADS
ELSEWHERE = make_batch(3, 17, labels=None, seed=1)  # of another shape than what is traced
BATCHES = [make_batch(4, 9, labels=None), ELSEWHERE]
QUICK = [("Bert", CLASSES), ("DistilBert", SPAN), ("Roberta", BARE)]


def model_of(family: str, head: str, **sizes: int) -> PreTrainedModel:
    layers = "n_layers" if family == "DistilBert" else "num_hidden_layers"
    return make_model(family, head, **{layers: 2, **sizes})


def emptied(model: PreTrainedModel) -> PreTrainedModel:
    """The first layer keeps two heads and half of its neurons, the second nothing."""
    masks = [torch.zeros(s.num_units) for s in find_sublayers(model)]
    masks[0][[0, 2]] = 1
    masks[1][::2] = 1
    return pruned(model, masks)
