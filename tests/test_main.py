"""`main.py`, the paper's command line."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.commands import ROOT, error_line, paper_main, problem_model, problem_rows, run, save_model, tree, write_jsonl
from tests.conftest import make_table
from trimformer.costs.latency_model import estimate_latency


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a checkpoint in `ckpt` and SST-2's columns in `data`."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "ckpt")
    write_jsonl(tmp_path / "data" / "train.jsonl", problem_rows("single_label"))
    write_jsonl(tmp_path / "data" / "validation.jsonl", problem_rows("single_label", 12))
    return tmp_path


def prune(*words, task="sst2", constraint=0.5):
    named = ("--model_name", "bert-tiny", "--task_name", task, "--ckpt_dir", "ckpt", "--data_dir", "data")
    return run(paper_main, *named, "--constraint", constraint, *words)


def test_the_output_lies_where_the_papers_code_puts_it(folder):
    assert prune("--seed", 3) == 0
    out = folder / "outputs" / "bert-tiny" / "sst2" / "mac" / "0.5" / "seed_3"
    files = {"head_mask.pt", "neuron_mask.pt", "log.txt", "results.json", "config.json", "model.safetensors"}
    assert files <= tree(out)
    assert torch.load(out / "head_mask.pt", weights_only=True).shape == (3, 4)
    AutoModelForSequenceClassification.from_pretrained(out)


def test_the_papers_method_and_settings_are_the_defaults(folder):
    assert prune("--output_dir", "out") == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["arguments"]["method"] == "kwon2022"
    assert results["arguments"]["num_samples"] == 2048
    assert results["samples"]["seq_len"] == 25.16  # SST-2's average length, not that of the samples
    assert results["task"]["name"] == "sst2"
    assert not (folder / "outputs").exists()


def test_every_flag_of_the_paper_is_taken(folder):
    words = "--gpu 0 --metric mac --num_samples 16 --seed 1 --sample_batch_size 4"
    assert prune(*words.split(), "--output_dir", "out") == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["samples"]["calibration"] == 16
    assert results["arguments"]["sample_batch_size"] == 4


@pytest.mark.slow
def test_it_runs_as_a_script_and_every_constraint_has_its_folder(folder, capsys):
    command = [sys.executable, ROOT / "main.py", "--model_name", "bert-tiny", "--task_name", "sst2"]
    command += ["--ckpt_dir", "ckpt", "--data_dir", "data", "--constraint", "0.75"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    capsys.readouterr()
    assert prune(constraint=0.75) == 2
    assert "outputs/bert-tiny/sst2/mac/0.75/seed_0' is not empty" in error_line(capsys.readouterr().err)
    assert prune() == 0
    assert {p.name for p in (folder / "outputs/bert-tiny/sst2/mac").iterdir()} == {"0.5", "0.75"}


@pytest.fixture
def luts(folder):
    """Tables as the paper's code leaves them, with nothing beside."""
    table = make_table(problem_model("single_label"), elsewhere=True)
    (folder / "luts").mkdir()
    torch.save(torch.from_numpy(table.levels["attention"][1:]), folder / "luts" / "mha_lut.pt")
    torch.save(table.levels["ffn"][1:].tolist(), folder / "luts" / "ffn_lut.pt")
    return ["--metric", "latency", "--mha_lut", "luts/mha_lut.pt", "--ffn_lut", "luts/ffn_lut.pt"]


def test_latency_is_searched_by_the_tables_as_in_the_paper(folder, luts):
    assert prune(*luts) == 0
    out = folder / "outputs" / "bert-tiny" / "sst2" / "latency" / "0.5" / "seed_0"
    mha_lut, ffn_lut = (torch.load(word, weights_only=True) for word in luts[3::2])
    masks = [torch.load(out / name, weights_only=True) for name in ("head_mask.pt", "neuron_mask.pt")]
    dense = estimate_latency(mha_lut, ffn_lut, torch.ones(3, 4), torch.ones(3, 40))
    estimate = json.loads((out / "results.json").read_text())["budget"]["estimated_ms"]
    assert estimate == pytest.approx(estimate_latency(mha_lut, ffn_lut, *masks))
    assert 0.4 * dense < estimate <= 0.5 * dense


BAD = {
    "--metric latency --mha_lut a.pt": ["--ffn_lut"],
    "--metric latency --mha_lut a.pt --ffn_lut b.pt": ["a.pt", "does not exist"],
    "--task_name nli": ["'nli'", "mnli"],
    "--task_name stsb": ["'stsb'", "regression", "single_label"],
    "--task_name mrpc": ["'sentence1'"],
    "--constraint 1.5": ["1.5", "(0, 1]"],
    "--constraint 0.0001": ["smallest reachable"],
    "--ckpt_dir nowhere": ["nowhere", "does not exist"],
    "--data_dir nowhere": ["nowhere", "does not exist"],
    "--method best": ["'best'", "kwon2022"],
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(folder, capsys, flags):
    before = tree(folder)
    capsys.readouterr()
    assert prune(*flags.split()) == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in BAD[flags]), message
    assert tree(folder) == before


@pytest.mark.parametrize("flags", ["--metric energy", "--constraint half", "--gpu x", "--num_samples 0"])
def test_what_the_parser_refuses_exits_2_too(folder, capsys, flags):
    assert prune(*flags.split()) == 2
    assert flags.split()[0] in capsys.readouterr().err.splitlines()[-1]
