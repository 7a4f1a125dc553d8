"""On the command line and in Python, labels are matched with the model's classes by name, and the report says how."""

import json

import pytest
from datasets import ClassLabel, Dataset

from tests.commands import run, save_model
from tests.conftest import make_rows
from trimformer import load, prune
from trimformer.cli.main import main
from trimformer.data.splits import read_splits

NAMES = {"id2label": {0: "spam", 1: "ham"}, "label2id": {"spam": 0, "ham": 1}}


def evaluate(capsys, model, data):
    assert main(["evaluate", str(model), "--data", str(data)]) == 0
    return json.loads(capsys.readouterr().out)


def write_data(path):
    """The same labels by the model's ids, by name, and by the numbers of data that counts otherwise."""
    rows = [{"sentence": row["sentence"], "label": ("spam", "ham")[row["label"]]} for row in make_rows(30)]
    rows[3]["label"] = "ham"
    ids = [{**row, "label": NAMES["label2id"][row["label"]]} for row in rows]
    (path / "ids.jsonl").write_text("\n".join(map(json.dumps, ids)))
    (path / "names.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = Dataset.from_list(rows).class_encode_column("label")
    assert named.features["label"] == ClassLabel(names=["ham", "spam"])
    named.to_parquet(path / "numbers.parquet")
    named.save_to_disk(path / "saved")
    return [path / name for name in ("ids.jsonl", "names.jsonl", "numbers.parquet", "saved")]


def test_scores_alone_read_numbers_as_pruning_does(tmp_path, capsys):
    """Labels 1 and 2 could be names of the classes 1 to 3, but for a 0 among the labels to train on."""
    names = {0: "1", 1: "2", 2: "3"}
    model = save_model(tmp_path / "model", num_labels=3, id2label=names, label2id={v: k for k, v in names.items()})
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"sentence": row["sentence"], "label": i % 3} for i, row in enumerate(make_rows(60))]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "validation.jsonl").write_text("\n".join(json.dumps(row) for row in rows if row["label"]))
    accuracy = evaluate(capsys, model, folder)["validation"]["accuracy"]
    assert run(main, "prune", model, "--data", folder, "--constraint", 0.5, "--output", tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["scores"]["dense"]["accuracy"] == pytest.approx(accuracy)


def test_every_numbering_gives_the_same_scores(tmp_path, capsys):
    model = save_model(tmp_path / "model", **NAMES)
    scores = [evaluate(capsys, model, data) for data in write_data(tmp_path)]
    assert scores[1:] == scores[:1] * 3


def test_the_report_says_how_labels_were_read(tmp_path):
    model = save_model(tmp_path / "model", **NAMES)
    *_, data, _ = write_data(tmp_path)
    words = ["--constraint", "0.6", "--output", str(tmp_path / "out")]
    assert main(["prune", str(model), "--data", str(data), *words]) == 0
    text = "column 'label' holds numbers that the data name (0 ham, 1 spam), the model numbers them otherwise"
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    assert figures["task"]["labels"].startswith(text)
    assert text in (tmp_path / "out" / "log.txt").read_text()
    assert "the model numbers them otherwise" in (tmp_path / "out" / "report.html").read_text()
    result = prune(*load(model), read_splits(data)["all"], 0.6)
    assert result.task.labels == figures["task"]["labels"]
    assert result.scores.dense == figures["scores"]["dense"]


def test_labels_by_number_rank_units_by_the_right_classes(tmp_path):
    model, processor = load(save_model(tmp_path / "model", **NAMES))
    masks = [
        prune(model, processor, read_splits(path)["all"], 0.5, method="kwon2022").masks for path in write_data(tmp_path)
    ]
    for other in masks[1:]:
        assert all(mask.equal(first) for mask, first in zip(other, masks[0], strict=True))
