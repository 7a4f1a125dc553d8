"""`--eval-data` names the rows that are scored on."""

import json

import pytest
from huggingface_hub import ModelCard

from tests.commands import error_line, prune, write_jsonl
from tests.conftest import make_rows


@pytest.mark.parametrize("with_validation", [True, False])
def test_scores_are_of_the_named_rows_and_all_training_rows_calibrate(model_dir, tmp_path, with_validation):
    rows = make_rows()
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    if with_validation:
        write_jsonl(tmp_path / "data" / "validation.jsonl", rows[:11])
    evaluation = write_jsonl(tmp_path / "mine.jsonl", rows[:7])
    assert prune(model_dir, tmp_path / "data", tmp_path / "out", "--eval-data", str(evaluation)) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["samples"]["evaluation"] == 7
    assert results["samples"]["calibration"] == len(rows)
    assert results["arguments"]["eval_data"] == str(evaluation)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert {result.dataset_name for result in card.data.eval_results} == {"mine.jsonl"}
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (card.text, page.replace("&#39;", "'")):
        assert "on 7 rows of 'mine.jsonl'" in text


def test_rows_that_are_not_there_are_named_before_the_work(model_dir, data, tmp_path, capsys):
    assert prune(model_dir, data, tmp_path / "out", "--eval-data", str(tmp_path / "no.jsonl")) == 2
    assert "no.jsonl' does not exist" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
