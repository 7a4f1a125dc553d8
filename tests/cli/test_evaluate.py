"""`trimformer evaluate` where no passage is known to be right: those are that the dense model finds first."""

import random

import pytest
import torch

import trimformer
from tests.commands import error_line, evaluate, prune, run, save_model, write_jsonl
from tests.conftest import WORDS, make_rows
from trimformer.cli.main import main

TEXTS = [" ".join(random.Random(i).choices(WORDS, k=6)) for i in range(100)]
ROWS = {
    "embedding": [{"query": text, "passage": ""} for text in TEXTS[:30]]
    + [{"query": "", "passage": text} for text in TEXTS[30:]],
    "regression": [{"query": TEXTS[i // 5], "passage": TEXTS[i % 97 + 3]} for i in range(100)],
}


@pytest.mark.parametrize("problem", ROWS)
def test_a_model_is_not_scored_by_its_own_first_passages(problem, tmp_path, capsys):
    dense, data = save_model(tmp_path / "dense", problem), write_jsonl(tmp_path / "rows.jsonl", ROWS[problem])
    other = save_model(tmp_path / "other", problem, seed=5)
    scores = {path.name: evaluate(capsys, path, "--data", data, "--reference", dense)["all"] for path in (dense, other)}
    assert scores["dense"]["dense_top_mrr@10"] == 1
    assert scores["other"]["dense_top_mrr@10"] < 1
    assert run(main, "evaluate", other, "--data", data) == 2
    assert "name the dense model with --reference" in error_line(capsys.readouterr().err)


def test_texts_that_are_cut_are_said(tmp_path, capsys):
    model = save_model(tmp_path / "model")
    rows = [{"sentence": " ".join(TEXTS[i : i + 30]), "label": i % 2} for i in range(30)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    report = evaluate(capsys, model, "--data", data, "--max-length", "16")
    assert any(
        "100.0 % of the texts of 'all' fill the maximum length of 16 tokens" in line for line in report["warnings"]
    )
    short = write_jsonl(tmp_path / "short.jsonl", [{**row, "sentence": TEXTS[i]} for i, row in enumerate(rows)])
    warnings = evaluate(capsys, model, "--data", short, "--max-length", "64").get("warnings", [])
    assert not any("maximum length" in line for line in warnings)


def test_rows_of_a_train_split_and_of_the_calibration_are_said(tmp_path, capsys):
    model, folder = save_model(tmp_path / "model"), tmp_path / "data"
    folder.mkdir()
    data = write_jsonl(folder / "train.jsonl", make_rows())
    assert prune(model, data, tmp_path / "out") == 0
    report = evaluate(capsys, tmp_path / "out", "--data", folder)
    assert list(report) == ["train", "warnings"]
    assert any("if the model was trained on these rows" in line for line in report["warnings"])
    report = evaluate(capsys, tmp_path / "out", "--data", data)
    assert any("rows that it was calibrated on are among those scored" in line for line in report["warnings"])
    other = write_jsonl(tmp_path / "other.jsonl", make_rows())
    report = evaluate(capsys, tmp_path / "out", "--data", other)
    assert not any("calibrated on" in line for line in report.get("warnings", []))


def test_a_model_that_guesses_is_said(tmp_path, capsys):
    model, names = save_model(tmp_path / "model"), ("one", "other")
    dense, tokenizer = trimformer.load(model)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = dense(**inputs).logits.argmax(-1).tolist()
    labels = {
        name: [label if i % 5 < right else 1 - label for i, label in enumerate(predicted)]
        for name, right in zip(names, (4, 2), strict=True)  # of five
    }
    rows = {name: [{"sentence": t, "label": v} for t, v in zip(TEXTS, labels[name], strict=True)] for name in names}
    reports = [evaluate(capsys, model, "--data", write_jsonl(tmp_path / f"{name}.jsonl", rows[name])) for name in names]
    guessing = [any("no better than guessing" in line for line in report.get("warnings", [])) for report in reports]
    assert guessing == [False, True]
