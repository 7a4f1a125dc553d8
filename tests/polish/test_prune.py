"""Polish as a stage of a run: its options, what is written of it, and what is not."""

import json

import pytest
import torch
from safetensors.torch import load_file

import trimformer
from testing.language import byte_tokenizer, language_model
from tests.commands import error_line, problem_model, problem_rows, prune, save_model, write_jsonl
from tests.conftest import make_rows, make_tokenizer
from trimformer import METHODS, LatencyOptions, Pruner, TrimformerError, pruner
from trimformer.data.batches import make_batches
from trimformer.data.tasks import task_of
from trimformer.polish import training_loop
from trimformer.polish.data import PolishInputs

WORDS = ("--batch-size", "8", "--neuron-multiple", "4", "--device", "cpu")


def test_it_is_told_wherever_the_run_is_told_of(model_dir, data, tmp_path, capsys):
    more = write_jsonl(tmp_path / "more.jsonl", make_rows(60, seed=1))
    words = ("--polish", "--polish-data", str(more), "--polish-budget", "5x", *WORDS)
    assert prune(model_dir, data, tmp_path / "out", *words) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    polish = results["polish"]
    assert results["method"]["polish"]
    assert polish["after"] <= polish["before"]
    assert polish["samples"] + polish["held_out"] == results["samples"]["calibration"] + 60
    assert "polish" in results["cost"]["seconds"]
    assert "polish" not in results["cost"]["forward_passes"]
    line = f"polish cost {polish['forward_passes']:.1f} forward passes"
    assert line in capsys.readouterr().out
    assert line in (tmp_path / "out" / "README.md").read_text()
    assert prune(model_dir, data, tmp_path / "plain", *WORDS) == 0
    one, two = (load_file(tmp_path / out / "model.safetensors") for out in ("out", "plain"))
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}
    assert "without retraining" in (tmp_path / "plain" / "README.md").read_text()
    assert json.loads((tmp_path / "plain" / "results.json").read_text())["polish"] is None


def test_a_polish_that_is_thrown_away_leaves_what_the_refit_gave(monkeypatch):
    monkeypatch.setattr(training_loop, "learning_rate", lambda *_: 0.0)
    options = {"batch_size": 8, "neuron_multiple": 4}
    one, two = (
        trimformer.prune(problem_model("single_label"), make_tokenizer(), problem_rows("single_label"), 0.5,
                         method=method, **options)
        for method in ("obs-polish", "obs")
    )  # fmt: skip
    assert not one.polish.accepted
    for (name, value), other in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("problem", ["single_label", "embedding"])
def test_a_plain_layout_is_polished_too(problem):
    rows = problem_rows(problem)
    options = {"batch_size": 8, "neuron_multiple": 4, "method": "obs-polish", "layout": "plain"}
    result = trimformer.prune(problem_model(problem), make_tokenizer(), rows, 0.4, **options)
    assert len(result.model.base_model.encoder.layer) < 3
    assert result.polish.after <= result.polish.before
    assert result.polish.steps > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--polish-budget", "5x"), "obs-polish"),
        (("--polish", "--polish-budget", "5"), "10x"),
        (("--polish", "--polish-budget", "1.1x"), "below one epoch"),
        (("--polish", "--polish-budget", "0.00001s"), "far below one epoch"),
        (("--polish", "--polish-data", "nowhere.jsonl"), "does not exist"),
        (("--polish", "--batch-size", "64"), "fewer than a batch"),
        (("--method", "kprune", "--polish"), "does not accept"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_writes_nothing(model_dir, data, tmp_path, capsys, words, told):
    assert prune(model_dir, data, tmp_path / "out", *WORDS, *words) == 2
    assert told in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_data_of_another_kind_are_one_sentence(model_dir, data, tmp_path, capsys):
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"sentence1": "a film", "sentence2": "the film"}] * 9)
    assert prune(model_dir, data, tmp_path / "out", *WORDS, "--polish", "--polish-data", str(pairs)) == 2
    assert error_line(capsys.readouterr().err).startswith("polish data cannot be used: ")


def test_an_interrupted_polish_writes_nothing(data, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("trimformer.polish.training_loop.hidden_loss", interrupted)
    model = save_model(tmp_path / "model")
    assert prune(model, data, tmp_path / "out", *WORDS, "--polish") != 0
    assert not (tmp_path / "out").exists()


def test_a_pruner_needs_samples_for_a_method_that_polishes():
    model, rows = problem_model("single_label"), problem_rows("single_label")
    features = task_of(model, rows).encode(rows, make_tokenizer(), model.config)
    with pytest.raises(TrimformerError, match="samples to polish on"):
        Pruner(model, make_batches(features, make_tokenizer(), 8), METHODS["obs-polish"])


def test_refits_are_those_of_the_model_that_is_returned(monkeypatch):
    options = {"batch_size": 8, "neuron_multiple": 4, "method": "obs-polish"}
    model, rows = problem_model("single_label"), problem_rows("single_label")
    monkeypatch.setattr(pruner, "ACCEPT_BELOW", 0.0)
    rejected = trimformer.prune(model, make_tokenizer(), rows, 0.5, **options)
    monkeypatch.setattr(pruner, "ACCEPT_BELOW", 100.0)
    accepted = trimformer.prune(model, make_tokenizer(), rows, 0.5, **options)
    assert (rejected.polish.accepted, accepted.polish.accepted) == (False, True)
    plain = trimformer.prune(model, make_tokenizer(), rows, 0.5, **{**options, "method": "obs"})
    assert rejected.refits == plain.refits
    assert [refit.sublayer for refit in accepted.refits] == [refit.sublayer for refit in plain.refits]
    assert accepted.refits != plain.refits  # fitted without the held-out samples


def test_the_share_of_the_layers_decides_what_a_polish_costs_where_memory_is_counted(monkeypatch):
    shares = []
    monkeypatch.setattr(PolishInputs, "check_affordable", lambda _, share, seconds: shares.append(share))
    model, tokenizer = language_model(), byte_tokenizer()
    texts = ["a text of some length, which fills blocks of tokens"] * 4 + [f"text {i} of others" * 4 for i in range(40)]
    options = {"batch_size": 4, "num_samples": 8, "latency": LatencyOptions(seq_len=32), "method": "obs-polish"}
    trimformer.prune(model, tokenizer, texts, 0.9, metric="memory", polish_data=texts, **options)
    assert 0 < shares[0] < 0.88  # 0.9 of all bytes, of which the embeddings stay
