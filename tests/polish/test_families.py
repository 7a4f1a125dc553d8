"""Every family can be polished: texts, images, sounds, two towers, layers that share their weights."""

import pytest
import torch

from testing.families import FAMILIES, inputs, make, random_masks
from tests.conftest import pruned
from trimformer.models.discovery import find_layers
from trimformer.options.polish import PolishBudget
from trimformer.polish.train import polish, trainable

QUICK = ("Albert, two groups", "ViT", "CLIP", "Wav2Vec2", "T5")


@pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_a_polish_never_ends_further_from_the_dense_model(family):
    teacher = make(family, FAMILIES[family].heads[0])
    student = pruned(teacher, random_masks(teacher))
    batches = [{"index": torch.arange(5), **inputs(teacher, 5, seed=seed)} for seed in range(3)]
    trained = {id(parameter) for parameter in trainable(student)}
    kept = {n: p.detach().clone() for n, p in student.named_parameters() if id(p) not in trained}
    report = polish(teacher, student, batches[:2], batches[2:], budget=PolishBudget(passes=12))
    assert report.after <= report.before
    assert report.steps > 0
    assert not report.note or "gained nothing" in report.note
    assert all(torch.equal(p, kept[n]) for n, p in student.named_parameters() if n in kept)
    assert all(any(id(p) in trained for p in layer.parameters()) for layer in find_layers(student))
