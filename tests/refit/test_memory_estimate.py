import logging
import math

import pytest
import torch
import transformers

from testing.language import language_model
from tests.conftest import make_batch, make_model
from trimformer.refit import memory_estimate as module
from trimformer.refit.memory_estimate import estimate_memory, warn_of_memory


def test_a_model_without_memory_has_the_estimate_of_a_real_one():
    model = language_model()
    with torch.device("meta"):
        twin = transformers.LlamaForCausalLM(model.config)
    assert estimate_memory(twin, 4096, 512) == estimate_memory(model, 4096, 512)


def test_less_memory_lowers_the_peak_and_more_students_raise_it():
    model = language_model()
    peaks = [estimate_memory(model, 4096, 64, max_memory=bound) for bound in (math.inf, 1e5, 1.0)]
    assert peaks[0].calibrate > peaks[1].calibrate > peaks[2].calibrate > peaks[2].weights
    assert peaks[0].refit > peaks[1].refit
    assert estimate_memory(model, 4096, 64, students=3).refit > peaks[0].refit


@pytest.mark.parametrize("free", [1e3, 1e12])
def test_prune_warns_only_where_less_memory_is_free_than_it_takes(free, monkeypatch, caplog):
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    with caplog.at_level(logging.WARNING):
        warn_of_memory(make_model(), [make_batch()])
    assert ("pruning takes about" in caplog.text) == (free < 1e6)
