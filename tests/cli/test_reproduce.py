"""`trimformer reproduce`: a recorded command gives the same bytes again, and what was tampered with is refused."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands import prune, run, save_model, write_jsonl
from tests.conftest import make_rows
from tests.hostile.world import refusal, snapshot
from trimformer.cli.main import main
from trimformer.cli.record import parse_command, read_record
from trimformer.cli.reproduce import DIFFERS

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, its data, and what `trimformer prune` made of them in this folder."""
    folder = tmp_path_factory.mktemp("made")
    save_model(folder / "model", num_hidden_layers=2)
    write_jsonl(folder / "rows.jsonl", make_rows())
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert prune("model", "rows.jsonl", "out", "--num-samples", "16", "--seed", "3") == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of it to spoil, from where commands run; temporary files lie in `temporary`."""
    shutil.copytree(made, tmp_path / "here")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def edit(folder, **changes):
    """Entries of `results.json` set; of an entry that is a dictionary only those that are named."""
    path = folder / "out" / "results.json"
    results = json.loads(path.read_text())
    for key, value in changes.items():
        results[key] = results[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(results))


def reproduce(capsys, *words):
    """Exit code, the first line of each kind of figure, and all that is printed."""
    capsys.readouterr()
    code = run(main, "reproduce", "out/results.json", *words)
    printed = capsys.readouterr().out
    return code, {line[:8].strip(): line[9:] for line in printed.splitlines() if not line.startswith(" ")}, printed


def test_a_recorded_run_is_reproduced_and_leaves_no_files(folder, capsys):
    before = snapshot(folder.parent)
    code, told, _ = reproduce(capsys)
    assert code == 0
    assert {told[name] for name in ("masks", "weights", "scores", "sizes", "machine")} == {"the same"}
    assert snapshot(folder.parent) == before


def test_a_kept_second_run_has_the_same_bytes_and_can_be_reproduced(folder, capsys):
    assert reproduce(capsys, "--output", "again")[0] == 0
    for name in (WEIGHTS, "config.json", "head_mask.pt", "neuron_mask.pt"):
        assert (folder / "again" / name).read_bytes() == (folder / "out" / name).read_bytes()
    assert run(main, "reproduce", "again") == 0


def test_a_changed_weight_is_named(folder, capsys):
    tensors = load_file(folder / "out" / WEIGHTS)
    tensors["classifier.bias"][0] += 0.5
    save_file(tensors, folder / "out" / WEIGHTS, metadata={"format": "pt"})
    code, told, printed = reproduce(capsys)
    assert code == DIFFERS == 4
    assert told["weights"] == f"1 of {len(tensors)} tensors differ:"
    assert "classifier.bias by 0.5 at most" in printed
    assert told["masks"] == "the same"


def test_a_changed_mask_is_named(folder, capsys):
    mask = torch.load(folder / "out" / "head_mask.pt", weights_only=True)
    torch.save(1 - mask, folder / "out" / "head_mask.pt")
    code, told, printed = reproduce(capsys)
    assert (code, told["masks"], told["weights"]) == (DIFFERS, "1 of 2 tensors differ:", "the same")
    assert "head_mask.pt by 1 at most" in printed


def test_changed_data_give_a_different_model(folder, capsys):
    write_jsonl(folder / "rows.jsonl", make_rows(seed=1))
    code, told, _ = reproduce(capsys)
    assert code == DIFFERS
    assert "tensors differ" in told["weights"]
    assert told["sizes"] != "the same"  # other texts are of another length


def test_another_machine_is_reported_but_does_not_count_as_a_difference(folder, capsys):
    versions = json.loads((folder / "out" / "results.json").read_text())["machine"]["versions"]
    edit(folder, machine={"device": "abacus, 10 threads", "versions": versions | {"torch": "0.1"}})
    code, told, printed = reproduce(capsys)
    assert code == 0
    assert told["machine"].startswith("device abacus, 10 threads then, ")
    assert f"versions torch 0.1 then, {torch.__version__} now" in printed


def test_a_changed_score_is_reported_but_does_not_count_as_a_difference(folder, capsys):
    edit(folder, scores={"divergence": float("nan")})
    code, told, _ = reproduce(capsys)
    assert code == 0
    assert told["scores"].startswith("divergence nan then, ")


@pytest.mark.parametrize("where", ["elsewhere", "model/inside", "../out", "/tmp/trimformer-nowhere", "out"])
def test_nothing_is_written_where_the_recorded_command_says(folder, where):
    words = json.loads((folder / "out" / "results.json").read_text())["command"]
    edit(folder, command=[*words, "--output", where])
    assert parse_command(read_record("out"), "here").output == "here"


def test_a_tampered_output_is_not_written(folder, capsys):
    words = json.loads((folder / "out" / "results.json").read_text())["command"]
    edit(folder, command=[*words, "--output", "elsewhere"])
    before = snapshot(folder.parent)
    assert reproduce(capsys)[0] == 0
    assert snapshot(folder.parent) == before


def command(*words):
    return lambda folder: edit(folder, command=list(words))


def tampered(*words):
    """Words after the recorded ones."""

    def spoil(folder):
        edit(folder, command=[*json.loads((folder / "out" / "results.json").read_text())["command"], *words])

    return spoil


def without(key):
    def spoil(folder):
        path = folder / "out" / "results.json"
        results = json.loads(path.read_text())
        del results[key]
        path.write_text(json.dumps(results))

    return spoil


def content(text):
    return lambda folder: (folder / "out" / "results.json").write_bytes(text)


def family(folder):
    (folder / "out" / "results.json").write_text(json.dumps({"identity": {}, "members": [], "cost": {}}))


def gone(name):
    return lambda folder: (folder / name).rename(folder / f"{name}.moved")


class Planted:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("planted",)


def pickled(folder):
    torch.save(Planted(), folder / "out" / "head_mask.pt")


PRUNE = ("trimformer", "prune")
DATA = ("model", "--data", "rows.jsonl", "--constraint", "0.5", "--output", "x")
HOSTILE = {
    "not there": (gone("out/results.json"), ["out/results.json", "does not exist"]),
    "no JSON": (content(b"masks"), ["out/results.json", "cannot be read"]),
    "not even text": (content(b"\xff\xfe\x00"), ["cannot be read"]),
    "a list": (content(b"[]"), ["holds no object"]),
    "nested deeply": (content(b"[" * 10**6), ["nested too deeply"]),
    "a number of 10,000 digits": (content(b'{"command": ' + b"9" * 10_000 + b"}"), ["cannot be read"]),
    "huge": (content(b" " * (2**24 + 1)), ["more than 16777216 bytes"]),
    "NaN": (content(b"NaN"), ["holds no object"]),
    "of another program": (content(b"{}"), ["records no `command`", "prune again"]),
    "of a sweep": (family, ["record of a sweep"]),
    "of an older version": (without("command"), ["records no `command`", "prune again"]),
    "no machine": (without("machine"), ["records no `machine`"]),
    "no scores": (without("scores"), ["records no `scores`"]),
    "no versions": (lambda f: edit(f, machine={"versions": None}), ["records no versions"]),
    "a member of a sweep": (command("trimformer", "sweep", *DATA), ["is not of `trimformer prune`"]),
    "the paper's command": (command("python", "main.py"), ["is not of `trimformer prune`"]),
    "a shell's command": (command("sh", "-c", "touch here"), ["is not of `trimformer prune`"]),
    "another command": (command("trimformer", "evaluate", "model"), ["is not of `trimformer prune`"]),
    "a word that is a list": (command(*PRUNE, ["model"]), ["is not of `trimformer prune`"]),
    "a NUL": (tampered("--task", "a\0b"), ["is not of `trimformer prune`"]),
    "100,000 words": (tampered(*["x"] * 100_000), ["is not of `trimformer prune`"]),
    "no words": (command(*PRUNE), ["arguments are required: MODEL_DIR"]),
    "a shell's word": (tampered("; touch here"), ["unrecognized arguments"]),
    "an unknown flag": (tampered("--run", "rm"), ["unrecognized arguments: --run"]),
    "help": (tampered("--help"), ["unrecognized arguments: --help"]),
    "no number": (tampered("--seed", "$(id)"), ["--seed"]),
    "a letter that moves the cursor": (tampered("\x1b[2J"), ["unrecognized arguments: \\x1b[2J"]),
    "two budgets": (tampered("--max-drop", "1"), ["cannot be run here", "give either a budget"]),
    "model is gone": (command(*PRUNE, "./no", *DATA[1:]), ["cannot be run here", "./no", "does not exist"]),
    "data are gone": (gone("rows.jsonl"), ["--data 'rows.jsonl' does not exist", "the folder where the command ran"]),
    "table is gone": (tampered("--metric", "latency", "--lut", "luts"), ["--lut 'luts' does not exist"]),
    "texts are gone": (tampered("--vocabulary", "texts"), ["--vocabulary 'texts' does not exist"]),
    "weights are gone": (lambda f: (f / "out" / WEIGHTS).unlink(), ["holds no weights"]),
    "masks are gone": (gone("out/neuron_mask.pt"), ["holds no neuron_mask.pt"]),
    "masks of objects": (pickled, ["head_mask.pt", "is not a plain tensor"]),
    "weights are broken": (lambda f: (f / "out" / WEIGHTS).write_bytes(b"\x08"), [WEIGHTS, "cannot be read"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_that_cannot_be_run_is_one_sentence_and_nothing_is_written(folder, capsys, name):
    spoil, says = HOSTILE[name]
    spoil(folder)
    before = snapshot(folder.parent)
    sentence = refusal(["reproduce", "out/results.json"], capsys)
    assert all(part in sentence for part in says), sentence
    assert snapshot(folder.parent) == before
