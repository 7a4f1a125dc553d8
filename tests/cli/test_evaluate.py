"""`trimformer evaluate` where no passage is known to be right: those are that the dense model finds first."""

import random

import pytest

from tests.commands import error_line, evaluate, run, save_model, write_jsonl
from tests.conftest import WORDS
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
