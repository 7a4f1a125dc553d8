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
from trimformer.session.coverage import (
    _label_coverage,
    _label_warnings,
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
    text, warning = describe_scored_rows({"validation": rows}, None, path)
    assert text == f"2 rows set aside from '{path}'"
    assert (warning is not None) == is_train


def test_training_splits_are_warned_of_however_they_are_given(tmp_path: Path):
    rows = [{"text": "a"}] * 5
    aside = Selection(rows, [0])
    (tmp_path / "train.jsonl").touch()
    assert describe_scored_rows({"validation": aside}, None, str(tmp_path))[1]
    assert describe_scored_rows({"validation": aside}, {"train": rows}, None)[1]
    assert describe_scored_rows({"validation": aside}, SimpleNamespace(split="train[:10%]"), None)[1]
    assert describe_scored_rows({"train": rows}, rows, None)[1]
    assert describe_scored_rows({"validation": rows}, None, "data", "data/train.csv")[1]
    assert describe_scored_rows({"validation": rows}, None, "data", "data/test.csv") == ("5 rows of 'test.csv'", None)
    assert describe_scored_rows({"validation": aside}, rows, None) == ("1 rows set aside from the data", None)


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
