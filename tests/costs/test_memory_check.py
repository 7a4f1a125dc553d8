"""Batches that no memory holds are refused by arithmetic: nothing is allocated here."""

import pytest
import torch

from tests.commands import error_line, run, tree
from tests.conftest import make_model
from trimformer import TrimformerError
from trimformer.cli.main import main
from trimformer.costs import memory_check
from trimformer.costs.random_inputs import random_inputs

CPU = torch.device("cpu")
# Of a sample of 10 tokens: ids and mask, and in float32 a stream of 24 and 40 neurons.
ONE = 10 * (8 + 8 + 4 * (24 + 40))


def lend(monkeypatch, size):
    """A machine with so much memory left."""
    monkeypatch.setattr(memory_check, "free_memory", lambda device: float(size))


def test_a_batch_is_let_through_up_to_the_last_byte(monkeypatch):
    lend(monkeypatch, 7 * ONE)
    assert random_inputs(make_model(), 7, 10)["input_ids"].shape == (7, 10)
    with pytest.raises(TrimformerError, match=r"batch of 8 takes .* lower the batch size"):
        random_inputs(make_model(), 8, 10)


def test_half_precision_takes_half_of_the_activations(monkeypatch):
    lend(monkeypatch, 8 * 10 * (8 + 8 + 2 * (24 + 40)))
    assert len(random_inputs(make_model().to(torch.bfloat16), 8, 10)["input_ids"]) == 8
    with pytest.raises(TrimformerError, match="batch of 8"):
        random_inputs(make_model(), 8, 10)


@pytest.mark.parametrize(
    "words",
    [
        "lut {model} --bs 2000000 --seq-len 64 --output {out}",
        "bench {model} --bs 1,2000000 --seq-len 64 --output {out}",
        "prune {model} --data {data} --metric latency --constraint 0.5 --bs 2000000 --output {out}",
        "prune {model} --data {data} --constraint 0.5 --bs 2000000 --seq-len 64 --output {out}",
        "sweep {model} --data {data} --latency-ms 5 --bs 2000000 --output {out}",
    ],
)
def test_each_command_tells_it_before_it_measures_or_calibrates(words, model_dir, data, tmp_path, monkeypatch, capsys):
    lend(monkeypatch, 2**30)
    for late in ("trimformer.costs.timing.Stopwatch.laps", "trimformer.pruner.Pruner.__init__"):
        monkeypatch.setattr(late, lambda *_: pytest.fail("too late"))
    before = tree(tmp_path)
    assert run(main, *words.format(model=model_dir, data=data, out=tmp_path / "out").split()) == 2
    assert "a batch of 2000000 takes" in error_line(capsys.readouterr().err)
    assert tree(tmp_path) == before
