"""What the samples of a run cannot show is measured before the work and named in one sentence each."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import trimformer
from tests.commands import problem_model, problem_rows
from tests.conftest import WORDS, make_tokenizer
from trimformer.data.batches import make_batches
from trimformer.data.rows import Selection
from trimformer.models import find_sublayers
from trimformer.reporting.page.prune import prune_page
from trimformer.reports import TextCoverage
from trimformer.session.coverage import (
    _label_coverage,
    _label_warnings,
    _length_warnings,
    _text_warnings,
    _vocabulary_warnings,
    count_labels,
    special_ids,
    text_coverage,
)
from trimformer.session.scored_rows import describe_scored_rows


def always(label, problem="tokens"):
    """A model that predicts one label for everything."""
    model = problem_model(problem)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.eye(len(model.classifier.bias))[label])
    return model


def test_labels_that_never_or_hardly_occur_are_found():
    coverage = _label_coverage([900, 60, 3, 0], ["O", "A", "B", "C"], "tokens")
    assert (coverage.never, coverage.hardly) == (["C"], ["B"])
    (line,) = _label_warnings(coverage, 30)
    assert "never or hardly predicts 2 of its 4 labels (C, B)" in line
    assert _label_warnings(_label_coverage([500, 40], ["no", "yes"], "single_label"), 30) == []


def test_rare_is_measured_against_an_even_share():
    assert _label_coverage([2] * 100, [str(i) for i in range(100)], "single_label").missing == []


def test_labels_of_special_tokens_and_padding_do_not_count():
    model, tokenizer = always(1), make_tokenizer()
    texts = ["the film is good", "dull"]
    encoded = tokenizer(texts)
    features = [{key: encoded[key][i] for key in ("input_ids", "attention_mask")} for i in range(2)]
    labels, _ = count_labels(model, make_batches(features, tokenizer, 2), special_ids(tokenizer))
    assert labels is not None
    assert list(labels.counts.values()) == [0, 5, 0]


def test_several_labels_and_numbers_are_counted():
    model, tokenizer, rows = problem_model("multi_label"), make_tokenizer(), problem_rows("multi_label", 4)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, -1.0, 1.0]))
    features = [{"input_ids": ids} for ids in tokenizer([row["sentence"] for row in rows])["input_ids"]]
    labels, _ = count_labels(model, make_batches(features, tokenizer, 4), ())
    assert labels is not None
    assert list(labels.counts.values()) == [4, 0, 4]
    labels, limits = count_labels(problem_model("regression"), make_batches(features, tokenizer, 4), ())
    assert labels is None
    assert limits is not None
    assert limits[0] <= limits[1]


def test_unknown_tokens_cut_texts_and_empty_encodings_are_counted():
    tokenizer = make_tokenizer()
    texts = ["the film", "the xyzzy", "", " ".join(WORDS[:6])]
    features = [{"input_ids": ids} for ids in tokenizer(texts, truncation=True, max_length=8)["input_ids"]]
    coverage = text_coverage(features, tokenizer, 8)
    assert (coverage.samples, coverage.empty, coverage.full, coverage.unknown) == (4, 1, 0.25, 0.1)
    lines = _text_warnings("calibration", coverage, 8)
    assert [word in line for word, line in zip(("unknown", "cut off", "special"), lines, strict=True)] == [True] * 3
    clean = text_coverage(features[:1], tokenizer, 8)
    assert _text_warnings("calibration", clean, 8) == []


def test_a_tokenizer_with_one_token_for_all_roles_knows_no_unknown():
    tokenizer = make_tokenizer()
    tokenizer.unk_token = tokenizer.sep_token
    assert text_coverage([{"input_ids": [0, 5, 2]}], tokenizer, 0).unknown is None


def test_a_smaller_vocabulary_is_named_but_not_padding_to_a_multiple():
    assert _vocabulary_warnings(50_265, 50_368) == []
    assert _vocabulary_warnings(32_100, 32_128) == []
    (line,) = _vocabulary_warnings(591, 30_522)
    assert "591 tokens" in line
    assert "30,522" in line


@pytest.mark.parametrize(
    ("path", "is_train"), [("train.jsonl", True), ("Train-v2.csv", True), ("reviews.jsonl", False)]
)
def test_rows_set_aside_of_a_training_file_are_warned_of(path, is_train):
    rows = Selection([{"text": "a"}] * 5, [0, 1])
    text, warning = describe_scored_rows({"validation": rows}, None, path, are_set_aside=True)
    assert text == f"2 rows set aside from '{path}'"
    assert bool(warning) == is_train


def test_training_splits_are_warned_of_however_they_are_given(tmp_path: Path):
    rows = [{"text": "a"}] * 5
    aside = Selection(rows, [0])
    (tmp_path / "train.jsonl").touch()
    assert describe_scored_rows({"validation": aside}, None, str(tmp_path), are_set_aside=True)[1]
    assert describe_scored_rows({"validation": aside}, {"train": rows}, None, are_set_aside=True)[1]
    assert describe_scored_rows({"validation": aside}, SimpleNamespace(split="train[:10%]"), None, are_set_aside=True)[
        1
    ]
    assert describe_scored_rows({"train": rows}, rows, None, are_set_aside=False)[1]
    assert describe_scored_rows({"validation": rows}, None, "data", "data/train.csv", are_set_aside=False)[1]
    text, warning = describe_scored_rows({"validation": rows}, None, "data", "data/test.csv", are_set_aside=False)
    assert (text, warning) == ("5 rows of 'test.csv'", [])
    text, warning = describe_scored_rows({"validation": aside}, rows, None, are_set_aside=True)
    assert (text, warning) == ("1 rows set aside from the data", [])


def test_a_run_warns_in_log_table_results_and_keeps_its_figures(caplog):
    model, tokenizer = always(0), make_tokenizer()
    with torch.no_grad():
        model.classifier.weight.normal_(std=0.02)
    rows = [{"text": row["sentence"]} for row in problem_rows("embedding", 60)]
    with caplog.at_level(logging.WARNING, logger="trimformer"):
        result = trimformer.prune(model, tokenizer, rows, 0.5, batch_size=8, neuron_multiple=4)
    assert "never or hardly predicts 2 of its 3 labels (LABEL_1, LABEL_2)" in caplog.text
    assert "warning: on the 48 calibration samples" in str(result)
    figures = result.figures()
    assert figures["coverage"]["labels"]["never"] == ["LABEL_1", "LABEL_2"]
    assert figures["coverage"]["warnings"] == result.warnings
    assert figures["agreement"]["kept"] == 1
    assert figures["samples"]["scored_on"] == "12 rows set aside from the data"
    assert result.changed is not None
    assert (result.changed.count, result.changed.of) == (0, 12)


def test_a_promise_names_what_it_does_not_cover(caplog):
    model, tokenizer = always(0, "single_label"), make_tokenizer()
    with torch.no_grad():
        model.classifier.weight.normal_(std=0.02)
    rows = problem_rows("embedding", 300)
    with caplog.at_level(logging.WARNING, logger="trimformer"):
        result = trimformer.prune(model, tokenizer, rows, max_divergence=5.0, batch_size=16, neuron_multiple=4)
    assert "the quality target does not cover these" in caplog.text
    assert result.target is not None
    assert "set aside from the calibration data" in result.target.judged_on
    assert result.target.unjudged_labels
    assert "not for the labels that hardly or never occur there" in str(result)


def test_every_set_of_other_lengths_than_the_calibration_texts_is_named():
    lengths = {"calibration": 10.0, "a": 20.0, "b": 20.1, "c": 5.0, "judged": 4.9}
    lines = _length_warnings({name: TextCoverage(8, mean, 0.0, 0.0, 0) for name, mean in lengths.items()})
    assert [name for name in lengths for line in lines if f"'{name}'" in line] == ["b", "judged"]
    assert lines[0].startswith("the calibration texts have 10 tokens on average and the texts of 'b' 20;")


def test_a_run_warns_where_scored_and_judged_texts_are_longer_than_the_calibration_texts():
    pairs = [f"{WORDS[i % len(WORDS)]} {WORDS[i // len(WORDS)]}" for i in range(120)]
    short, long = ([{"text": text + more} for text in pairs] for more in ("", " the film is good" * 5))
    options = {"batch_size": 32, "max_divergence": 50.0, "eval_dataset": {"dev": long[:40]}, "judge_dataset": long}
    result = trimformer.prune(problem_model("single_label"), make_tokenizer(), short, **options)
    assert [line.split(";")[0] for line in result.warnings if "on average" in line] == [
        f"the calibration texts have 4 tokens on average and the texts of '{name}' 24" for name in ("dev", "judged")
    ]
    assert result.figures()["coverage"]["texts"]["judged"]["mean_length"] == 24


def test_a_run_warns_where_a_regression_leaves_the_range_of_the_calibration_samples(caplog):
    model = problem_model("regression")
    rows = problem_rows("regression", 40)
    narrow = [{**rows[0], "label": 0.1 * i} for i in range(30)]  # one text, so one prediction
    with caplog.at_level(logging.WARNING, logger="trimformer"):
        result = trimformer.prune(model, make_tokenizer(), narrow, 0.5, eval_dataset=rows, batch_size=8)
    assert result.coverage is not None
    low, high = result.coverage.predicted_range
    assert high - low < 1e-5
    (line,) = (line for line in result.warnings if "range" in line)
    assert line.startswith("97.5 % of the dense model's predictions lie outside")
    assert line in caplog.text
    inside = trimformer.prune(model, make_tokenizer(), rows, 0.5, eval_dataset=rows, batch_size=8)
    assert not [line for line in inside.warnings if "range" in line]


def test_the_rows_that_a_smaller_budget_would_take_are_in_log_results_table_and_page(caplog, monkeypatch):
    monkeypatch.setattr("trimformer.session.quality_search.rows_to_promise", lambda target, verdict, rows: 2 * rows)
    model = problem_model("single_label")
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    options = {"max_divergence": 4e-5, "batch_size": 16, "neuron_multiple": 4}
    with caplog.at_level(logging.INFO, logger="trimformer"):
        result = trimformer.prune(model, make_tokenizer(), problem_rows("embedding", 300), **options)
    assert result.target is not None
    advice = result.target.more_rows
    assert advice is not None
    assert advice.rows == 2 * result.target.samples
    assert advice.constraint < result.budget.constraint
    figures = {"rows": advice.rows, "constraint": advice.constraint, "unit": "rows"}
    assert result.figures()["target"]["more_rows"] == figures
    sentence = f"with about {advice.rows:,} test rows, {advice.constraint:.2f} of the cost could have been promised"
    assert sentence in caplog.text
    assert sentence in str(result)
    assert f"W{sentence[1:]}." in prune_page(result, find_sublayers(model), "tiny", {})
