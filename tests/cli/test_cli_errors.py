"""Bad input: one sentence that names it, exit code 2, no traceback, nothing written."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartModel

from tests.commands import error_line, problem_rows, prune, run, save_model, tree, write_jsonl
from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer.cli.main import main


def remove(*names):
    def change(model):
        for name in names:
            (model / name).unlink()

    return change


def edit_config(**changes):
    def change(model):
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | changes))

    return change


def edit_weights(edit):
    def change(model):
        tensors = load_file(model / "model.safetensors")
        edit(tensors)
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})

    return change


def become(make):
    def change(model):
        shutil.rmtree(model)
        make().save_pretrained(model)
        make_tokenizer().save_pretrained(model)

    return change


def bart():
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartModel(BartConfig(d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=99, **sizes))


def empty(model):
    shutil.rmtree(model)
    model.mkdir()


NOT_A_NUMBER = "bert.encoder.layer.1.output.dense.weight"

BAD_MODELS = {
    "missing": (shutil.rmtree, ["model", "does not exist"]),
    "empty": (empty, ["model", "is empty"]),
    "no config": (remove("config.json"), ["model", "no config.json", "save_pretrained"]),
    "no weights": (remove("model.safetensors"), ["model", "no weights", "safetensors"]),
    "broken config": (lambda m: (m / "config.json").write_text("{"), ["model", "config"]),
    "no model type": (lambda m: (m / "config.json").write_text("{}"), ["model", "config", "model_type"]),
    "no architecture": (edit_config(architectures=None), ["model", "architecture"]),
    "other width": (edit_config(intermediate_size=36), ["model", "weights", "match"]),
    "more layers": (edit_config(num_hidden_layers=4), ["model", "lack", "layer.3"]),
    "no head": (edit_weights(lambda t: [t.pop(k) for k in list(t) if "classifier" in k]), ["model", "classifier"]),
    "cut weights": (lambda m: (m / "model.safetensors").write_bytes(b"\x08"), ["model", "weights"]),
    "bart": (become(bart), ["bart", "no layer that can be pruned", "BertLayer", "ViTLayer"]),
    "pretraining head": (become(lambda: make_model(head="ForPreTraining")), ["BertForPreTraining", "not supported"]),
    "decoder": (edit_config(is_decoder=True), ["decoder"]),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), ["model", "tokenizer"]),
    "NaN": (edit_weights(lambda t: t[NOT_A_NUMBER].fill_(torch.nan)), ["not finite", "NaN"]),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_one_sentence_and_nothing_is_written(model_dir, data, tmp_path, capsys, name):
    change, words = BAD_MODELS[name]
    change(model_dir)
    before = tree(tmp_path)
    capsys.readouterr()
    assert prune(model_dir, data, tmp_path / "out") == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


LABEL_3 = {"sentence": "a film", "label": 3}
GOOD = make_rows()

# Content of the data (rows, or bytes of a file of this name) and words of the error.
BAD_DATA = {
    "missing": ("no.jsonl", None, ["no.jsonl", "does not exist"]),
    "missing folder": ("no", None, ["no", "does not exist"]),
    "empty": ("rows.jsonl", b"", ["rows.jsonl", "empty"]),
    "only a header": ("rows.csv", b"sentence,label\n", ["rows.csv", "empty"]),
    "empty split": ("data/train.jsonl", b"", ["train.jsonl", "empty"]),
    "no split": ("data/notes.md", b"hello", ["data", "train", "validation"]),
    "no training split": ("data/validation.jsonl", GOOD, ["'train'", "validation (40)"]),
    "too few rows": ("rows.jsonl", GOOD[:3], ["all (3)"]),
    "not UTF-8": ("rows.csv", "sentence,label\ncaf\xe9,1\n".encode("latin-1"), ["rows.csv", "UTF-8"]),
    "broken JSON": ("rows.jsonl", b'{"sentence": "a"}\n{"sent', ["rows.jsonl", "line 2", "JSON"]),
    "broken Parquet": ("rows.parquet", b"PAR1", ["rows.parquet"]),
    "unknown type": ("rows.xlsx", b"x", ["rows.xlsx", ".jsonl"]),
    "no text column": ("rows.jsonl", [{"a": 1, "b": 2}] * 9, ["no text column", "a, b", "--text-column"]),
    "label outside": ("rows.jsonl", [*GOOD, LABEL_3], ["label 3", "2 labels"]),
    "negative label": ("rows.jsonl", [*GOOD, {**LABEL_3, "label": -1}], ["label -1", "2 labels"]),
    "unknown label": ("rows.jsonl", [*GOOD, {**LABEL_3, "label": "great"}], ["'great'", "LABEL_0, LABEL_1"]),
    "label is a fraction": ("rows.jsonl", [*GOOD, {**LABEL_3, "label": 0.5}], ["0.5", "not a class"]),
    "label is a list": ("rows.jsonl", [*GOOD, {**LABEL_3, "label": [1]}], ["list"]),
    "label is an object": ("rows.jsonl", [*GOOD, {**LABEL_3, "label": {"a": 1}}], ["label"]),
    "label is null": ("rows.jsonl", [*GOOD, {**LABEL_3, "label": None}], ["label"]),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_one_sentence_and_nothing_is_written(model_dir, tmp_path, capsys, name):
    file, content, words = BAD_DATA[name]
    path = tmp_path / "in" / file
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        write_jsonl(path, content)
    before = tree(tmp_path)
    capsys.readouterr()
    assert prune(model_dir, path.parent if path.parent.name == "data" else path, tmp_path / "out") == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


SPAN = {"question": "who", "context": "a film", "answers": {"text": ["film"], "answer_start": [2]}}
WORDS = {"tokens": ["a", "film"], "ner_tags": [0, 1]}

BAD_ROWS = {
    "regression": ("regression", {"sentence": "a", "label": "good"}, ["'good'", "not a finite number"]),
    "one label of several": ("multi_label", {"sentence": "a", "label": 1}, ["label '1'", "not a list"]),
    "unknown among several": ("multi_label", {"sentence": "a", "label": ["odd"]}, ["'odd'", "LABEL_0"]),
    "more words than tags": ("tokens", {**WORDS, "ner_tags": [0]}, ["2 words", "1 tags"]),
    "unknown tag": ("tokens", {**WORDS, "ner_tags": ["O", "B-X"]}, ["'O'", "LABEL_0"]),
    "no words": ("tokens", {**WORDS, "tokens": 7}, ["tokens", "not a list"]),
    "answer after the context": ("span", {**SPAN, "context": "a"}, ["outside its context"]),
    "answers are a text": ("span", {**SPAN, "answers": "film"}, ["'text' and 'answer_start'"]),
    "no question": ("span", {**SPAN, "question": None}, ["'question'"]),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_one_sentence_and_nothing_is_written(tmp_path, capsys, name):
    problem, row, words = BAD_ROWS[name]
    model = save_model(tmp_path / "model", problem)
    write_jsonl(tmp_path / "data" / "train.jsonl", [*problem_rows(problem, 8), row])
    write_jsonl(tmp_path / "data" / "validation.jsonl", problem_rows(problem, 4))
    before = tree(tmp_path)
    capsys.readouterr()
    assert prune(model, tmp_path / "data", tmp_path / "out") == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


BAD_FLAGS = {
    "constraint 0": ("--constraint 0", ["0.0", "(0, 1]"]),
    "constraint -1": ("--constraint -1", ["-1.0", "(0, 1]"]),
    "constraint 1.5": ("--constraint 1.5", ["1.5", "(0, 1]"]),
    "constraint nan": ("--constraint nan", ["nan", "(0, 1]"]),
    "unreachable": ("--constraint 0.0001", ["0.0001", "smallest reachable is"]),
    "another type": ("--metric memory --export gguf-q4_0", ["type f16 (--quantize)", "does not write"]),
    "method": ("--method best", ["'best'", "obs, obs-labels, obs-polish, kwon2022"]),
    "task": ("--task sentiment", ["'sentiment'", "sst2", "squad_v2"]),
    "task of another head": ("--task squad", ["'squad'", "span", "single_label"]),
    "task of other columns": ("--task mrpc", ["'sentence1'", "label, sentence"]),
    "task and columns": ("--task sst2 --text-column sentence", ["--task", "--text-column"]),
    "device": ("--device tpu9", ["'tpu9'"]),
    "text column": ("--text-column review", ["'review'", "label, sentence"]),
    "label column": ("--label-column stars", ["'stars'", "label, sentence"]),
    "three text columns": ("--text-column sentence label sentence", ["text column"]),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_a_bad_flag_is_one_sentence_and_nothing_is_written(model_dir, data, tmp_path, capsys, name):
    flags, words = BAD_FLAGS[name]
    before = tree(tmp_path)
    capsys.readouterr()
    assert prune(model_dir, data, tmp_path / "out", *flags.split()) == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "flags",
    [
        "--constraint half",
        "--num-samples 0",
        "--batch-size -3",
        "--seed -1",
        "--max-length x",
        "--frobnicate 3",
        "extra",
    ],
)
def test_what_the_parser_refuses_exits_2_too(model_dir, data, tmp_path, capsys, flags):
    assert prune(model_dir, data, tmp_path / "out", *flags.split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last
    assert flags.split()[0] in last
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_empty_is_left_alone(model_dir, data, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    before = tree(tmp_path)
    assert prune(model_dir, data, tmp_path / "out") == 2
    assert "not empty" in error_line(capsys.readouterr().err)
    assert tree(tmp_path) == before


def test_an_output_below_a_file_is_an_error(model_dir, data, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert prune(model_dir, data, out) == 2
        assert str(tmp_path / "file") in error_line(capsys.readouterr().err)
    assert (tmp_path / "file").read_text() == "x"


def test_an_empty_directory_and_missing_parents_are_fine(model_dir, data, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert prune(model_dir, data, out) == 0
        assert (out / "results.json").is_file()
        assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_a_model_without_data_says_how_to_give_some(model_dir, tmp_path, capsys):
    assert run(main, "prune", model_dir, "--constraint", "0.5", "--output", tmp_path / "out") == 2
    message = error_line(capsys.readouterr().err)
    assert "--data" in message
    assert "--task" in message


def test_a_task_that_the_hub_cannot_give_says_how_to_give_a_folder(model_dir, tmp_path, capsys, monkeypatch):
    import datasets

    def offline(*_):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    words = ("prune", model_dir, "--task", "sst2", "--constraint", "0.5", "--output", tmp_path / "out")
    assert run(main, *words) == 2
    message = error_line(capsys.readouterr().err)
    assert "nyu-mll/glue" in message
    assert "--data" in message


EVALUATE_FLAGS = {
    "--masks nowhere": ["nowhere", "head_mask.pt"],
    "--reference nowhere": ["nowhere", "does not exist"],
    "--device tpu9": ["'tpu9'"],
    "--output no/such/scores.json": ["no/such/scores.json"],
    "--output .": ["output file", "name a file"],
}


@pytest.mark.parametrize("flags", EVALUATE_FLAGS)
def test_evaluate_refuses_bad_flags_in_one_sentence(model_dir, data, capsys, flags):
    capsys.readouterr()
    assert run(main, "evaluate", model_dir, "--data", data, *flags.split()) == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in EVALUATE_FLAGS[flags]), message


def test_masks_and_references_of_another_model_are_refused(model_dir, data, tmp_path, capsys):
    other = save_model(tmp_path / "other", "tokens", intermediate_size=36)
    for name, shape in (("head_mask.pt", (3, 4)), ("neuron_mask.pt", (3, 36))):
        torch.save(torch.ones(shape), other / name)
    capsys.readouterr()
    assert run(main, "evaluate", model_dir, "--data", data, "--masks", other) == 2
    assert "(3, 36)" in error_line(capsys.readouterr().err)
    assert run(main, "evaluate", model_dir, "--data", data, "--reference", other) == 2
    assert "other" in error_line(capsys.readouterr().err)


def test_an_interrupted_run_leaves_nothing_behind(model_dir, data, tmp_path, capsys, monkeypatch):
    before = tree(tmp_path)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", interrupt)
    assert prune(model_dir, data, tmp_path / "out") == 130
    assert "interrupted" in capsys.readouterr().err
    assert tree(tmp_path) == before
