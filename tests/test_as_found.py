"""Data and checkpoints as they are found: rows without a text, odd labels, one class, huge texts, half precision."""

import gzip
import json

import pandas
import pytest
import torch

import trimformer
from tests.commands import (
    error_line,
    evaluate,
    problem_model,
    problem_rows,
    run,
    save_model,
    small_steps,
    write_jsonl,
)
from tests.commands import prune as prune_command
from tests.conftest import make_tokenizer
from trimformer import METHODS, TrimformerError
from trimformer.cli.main import main

ROWS = problem_rows("single_label")
BLANK = {"sentence": " \n", "label": 1}
OPTIONS = {"batch_size": 8, "num_samples": 40}


def prune(rows, model=None, **options):
    given = problem_model("single_label") if model is None else model
    return trimformer.prune(
        given, make_tokenizer(), rows, 0.5, **{**OPTIONS, **small_steps(options.get("method", "obs")), **options}
    )


def test_rows_without_a_text_change_no_weight_and_are_scored_as_anywhere_else():
    train, scored = ROWS[:30], [*ROWS[30:], BLANK, BLANK]
    result = prune([BLANK, *train, BLANK, BLANK], eval_dataset=scored)
    alone = prune(train, eval_dataset=scored)
    ours, theirs = result.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (result.samples.calibration, result.samples.blank_dropped) == (30, 3)
    assert (result.samples.evaluation, result.samples.blank_scored) == (12, 2)
    inputs = make_tokenizer()([row["sentence"] for row in scored], padding=True, return_tensors="pt")
    said = problem_model("single_label")(**inputs).logits.argmax(-1).tolist()
    right = [one == row["label"] for one, row in zip(said, scored, strict=True)]
    assert result.scores.dense["accuracy"] == sum(right) / 12


def test_samples_are_drawn_among_the_rows_that_have_a_text():
    result = prune([BLANK] * 30 + ROWS[:10], eval_dataset=ROWS, num_samples=10)
    assert (result.samples.calibration, result.samples.blank_dropped) == (10, 30)


def test_what_was_left_out_stands_in_the_log_the_results_and_the_page(model_dir, tmp_path, capsys):
    write_jsonl(tmp_path / "data" / "train.jsonl", [*ROWS, BLANK])
    write_jsonl(tmp_path / "data" / "validation.jsonl", [*ROWS[:9], BLANK])
    assert prune_command(model_dir, tmp_path / "data", tmp_path / "out", "--num-samples", "16") == 0
    samples = json.loads((tmp_path / "out" / "results.json").read_text())["samples"]
    assert (samples["blank_dropped"], samples["blank_scored"], samples["evaluation"]) == (1, 1, 10)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "1 of 41 calibration rows have no text and are left out" in log
    assert "1 of 10 rows of 'validation' have no text and are scored like all others" in log
    assert "1 rows without a text left out" in (tmp_path / "out" / "report.html").read_text()
    assert evaluate(capsys, model_dir, "--data", tmp_path / "data")["validation"]["samples"] == 10


def test_polish_data_without_a_text_are_left_out():
    more = [{"sentence": row["sentence"][::-1]} for row in ROWS]
    polished = [prune(ROWS, method="obs-polish", polish_data=data).polish for data in (more, [{"sentence": ""}, *more])]
    assert polished[0].samples == polished[1].samples
    with pytest.raises(TrimformerError, match="polish data cannot be used: all 1 rows to polish on have no text"):
        prune(ROWS, method="obs-polish", polish_data=[{"sentence": ""}])


def test_a_missing_value_is_no_empty_text_and_its_row_is_named():
    frame = pandas.DataFrame(ROWS)
    frame.loc[4, "sentence"] = float("nan")
    with pytest.raises(TrimformerError, match=r"'sentence' is empty in row 5"):
        prune(frame, eval_dataset=ROWS)
    with pytest.raises(TrimformerError, match=r"'label' is empty in row 5"):
        prune([*ROWS[:4], {**ROWS[4], "label": None}, *ROWS[5:]], eval_dataset=ROWS)


@pytest.mark.parametrize("kind", [float, bool, str, lambda label: f"{label}.0"])
def test_whole_numbers_are_classes_however_they_are_written(kind):
    rows = [{**row, "label": kind(row["label"])} for row in ROWS]
    assert prune(rows).scores == prune(ROWS).scores


@pytest.mark.parametrize("label", ["1.5", "1.", ".0", "1e0", "--1", 0.5])
def test_what_is_no_class_is_refused_by_row(label):
    with pytest.raises(TrimformerError, match=r"label '?\S+ in row 3"):
        prune([*ROWS[:2], {**ROWS[2], "label": label}, *ROWS[3:]])


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "csv.gz"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(suffix, model_dir, tmp_path, capsys):
    lines = [json.dumps(row) for row in ROWS]
    separator = "\t" if suffix == "tsv" else ","
    table = "\n".join(["sentence" + separator + "label", *(f"{r['sentence']}{separator}{r['label']}" for r in ROWS)])
    written = {"jsonl": "\n".join(lines), "json": f"[{','.join(lines)}]"}.get(suffix, table)
    content = ("\ufeff" + written).encode()
    path, plain = tmp_path / f"x.{suffix}", write_jsonl(tmp_path / "plain.jsonl", ROWS)
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    scores = [next(iter(evaluate(capsys, model_dir, "--data", data).values())) for data in (path, plain)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("problem", ["single_label", "span", "tokens", "embedding"])
def test_a_text_of_a_hundred_thousand_letters_is_cut_or_read_in_windows(problem):
    rows = problem_rows(problem, 12)
    column = {"span": "context", "tokens": "tokens"}.get(problem, "sentence")
    words = ["film"] * 20_000
    long = {**rows[-1], column: words if problem == "tokens" else " ".join([rows[-1][column], *words])}
    if problem == "tokens":
        long["ner_tags"] = [0] * len(words)
    result = prune([*rows[:-1], long], problem_model(problem), eval_dataset=[long, *rows])
    assert abs(result.scores.divergence) < 1
    assert result.samples.seq_len <= 64


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "obs-polish"])
@pytest.mark.parametrize("rare", [None, 3])
def test_one_class_or_a_label_that_occurs_once_is_enough_for_every_method(method, rare):
    rows = [{**row, "label": int(i == rare)} for i, row in enumerate(ROWS)]
    result = prune(rows, method=method, eval_dataset=rows)
    assert all(torch.isfinite(weight).all() for weight in result.model.state_dict().values())
    assert 0 < result.budget.kept <= 0.5


def test_labels_that_rank_nothing_are_reported():
    model, rows = problem_model("single_label"), [{**row, "label": 1} for row in ROWS]
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-500.0, 500.0]))  # sure of the only class: the loss is 0
    for method in ("kwon2022", "obs-labels"):
        with pytest.raises(TrimformerError, match="cannot rank units"):
            prune(rows, model, method=method)
    assert prune(rows, model, method="kprune").budget.kept <= 0.5


def overflowing(dtype):
    """A model whose neurons are beyond float16, and within bfloat16."""
    model = problem_model("single_label").to(dtype)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.intermediate.dense.weight.mul_(3e3)
            layer.output.dense.weight.mul_(1e3)
    return model


@pytest.mark.parametrize("method", ["obs", "kwon2022", "kprune", "magnitude"])
def test_a_checkpoint_that_overflows_in_half_precision_is_an_error(method):
    with pytest.raises(TrimformerError, match=r"not finite.*float32"):
        prune(ROWS, overflowing(torch.float16), method=method)
    assert prune(ROWS, overflowing(torch.bfloat16), method=method).scores.divergence >= 0


def test_scores_of_outputs_that_overflow_are_not_reported(tmp_path, data, capsys):
    path = save_model(tmp_path / "model")
    overflowing(torch.float16).save_pretrained(path)
    assert run(main, "evaluate", path, "--data", data) == 2
    assert "not finite for 40 of 40 samples of 'all': it overflows in float16" in error_line(capsys.readouterr().err)
