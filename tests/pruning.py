"""Prunes tiny models through the Python API in the tests."""

import torch

import trimformer
from tests.commands import problem_model, problem_rows, small_steps
from tests.conftest import make_batch, make_tokenizer
from trimformer import METHODS
from trimformer.models.layer_calls import model_inputs

ROWS = problem_rows("single_label")
BATCH = model_inputs(make_batch(labels=None))
FINE = [name for name in METHODS if name != "shortgpt"]  # of three whole layers, few budgets can be kept


def prune(model=None, rows=ROWS, constraint=0.5, **options):
    model = model if model is not None else problem_model("single_label")
    options = {"batch_size": 8, "num_samples": len(rows) // 2, **small_steps(options.get("method", "obs")), **options}
    return trimformer.prune(model, make_tokenizer(), rows, constraint, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
