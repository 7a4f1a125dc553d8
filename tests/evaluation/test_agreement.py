"""Agreement of predictions: by label, on rare labels, and the paired interval of a score's change."""

import pytest
import torch

from tests.commands import problem_model, problem_rows
from tests.conftest import make_tokenizer
from trimformer.data.tasks import task_of
from trimformer.evaluation.agreement import LabelAgreement, find_agreement, find_changed_tokens, paired_interval
from trimformer.evaluation.changed_predictions import SampleOutputs
from trimformer.evaluation.scores import Scorer

NAMES = ("O", "B-name", "I-name")


def one_hot(labels, classes=3):
    return torch.eye(classes)[torch.tensor(labels)]


def outputs(labels, features):
    return SampleOutputs([one_hot(row) for row in labels], features)


def test_a_mean_over_tokens_hides_rare_labels_and_the_report_does_not():
    features = [{"input_ids": [0, *range(4, 22), 2], "attention_mask": [1] * 20}]
    dense = outputs([[1, *[0] * 16, 1, 2, 1]], features)  # what stands on special tokens does not count
    pruned = outputs([[2, *[0] * 16, 1, 0, 0]], features)
    report = find_agreement("tokens", NAMES, dense, pruned, special_ids={0, 2})
    assert report is not None
    assert (report.unit, report.total, report.majority) == ("tokens", 18, "O")
    assert report.kept == pytest.approx(17 / 18)
    assert report.others == 0.5
    assert report.labels == [
        LabelAgreement("O", 16, 17, 16), LabelAgreement("B-name", 1, 1, 1), LabelAgreement("I-name", 1, 0, 0),
    ]  # fmt: skip


def test_only_labelled_tokens_count_where_there_are_labels():
    features = [{"input_ids": [0, 5, 6, 2], "labels": [-100, 1, -100, -100]}]
    report = find_agreement("tokens", NAMES, outputs([[0, 1, 2, 0]], features), outputs([[0, 1, 1, 1]], features))
    assert report is not None
    assert (report.total, report.kept) == (1, 1.0)


def test_samples_that_are_tokenized_differently_are_left_out():
    dense = outputs([[0, 1, 1], [0, 1, 1]], [{"input_ids": [5, 6, 7]}, {"input_ids": [5, 6, 7]}])
    pruned = outputs([[0, 1], [0, 1, 0]], [{"input_ids": [5, 6]}, {"input_ids": [5, 6, 7]}])
    report = find_agreement("tokens", NAMES, dense, pruned)
    assert report is not None
    assert (report.total, report.kept) == (3, pytest.approx(2 / 3))
    short = outputs([[0, 1]], [{"input_ids": [5, 6]}])
    assert find_agreement("tokens", NAMES, outputs([[0, 1, 1]], dense.features[:1]), short) is None


def test_of_several_labels_all_must_stay():
    dense = SampleOutputs([torch.tensor([1.0, -1, 1]), torch.tensor([-1.0, -1, 1])], [{}, {}])
    pruned = SampleOutputs([torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, -1, 1])], [{}, {}])
    report = find_agreement("multi_label", NAMES, dense, pruned)
    assert report is not None
    assert (report.kept, report.others, report.majority) == (0.5, pytest.approx(2 / 3), None)
    assert report.labels[0] == LabelAgreement("I-name", 2, 1, 1)


def test_classes_of_samples_and_outputs_without_names():
    dense = SampleOutputs([torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), torch.tensor([1.0, 0])], [{}] * 3)
    pruned = SampleOutputs([torch.tensor([1.0, 0])] * 3, [{}] * 3)
    report = find_agreement("single_label", ("no", "yes"), dense, pruned)
    assert report is not None
    assert (report.kept, report.others, report.majority) == (pytest.approx(2 / 3), 0.0, "no")
    assert find_agreement("regression", (), dense, pruned) is None
    unnamed = find_agreement("single_label", (), dense, pruned)
    assert unnamed is not None
    assert (unnamed.labels, unnamed.others) == ([], None)


def test_changed_words_of_unlabelled_texts_are_shown():
    tokenizer = make_tokenizer()
    ids = tokenizer(["the film is good", "a dull plot"])["input_ids"]
    features = [{"input_ids": row} for row in ids]
    same = [0] * len(ids[1])
    report = find_changed_tokens(
        tokenizer, NAMES, outputs([[0, 0, 1, 0, 0, 0], same], features), outputs([[0, 0, 0, 0, 0, 0], same], features)
    )
    assert report is not None
    assert (report.count, report.of) == (1, 2)
    change = report.examples[0]
    assert (change.text, change.word, change.label) == ("the film is good", "film", None)
    assert (change.dense.name, change.pruned.name) == ("B-name", "O")


def test_the_interval_of_a_change_is_that_of_the_paired_difference():
    model, tokenizer, rows = problem_model("single_label"), make_tokenizer(), problem_rows("single_label", 80)
    scorer = Scorer("rows", rows, task_of(model, rows), model, tokenizer)
    labels = torch.tensor([row["label"] for row in rows])
    dense = [one_hot([label], 2)[0] for label in labels.tolist()]
    assert paired_interval(scorer, dense, scorer, dense, "accuracy") == 0  # no noise, however few rows
    wrong = [one_hot([1 - label], 2)[0] if i < 8 else dense[i] for i, label in enumerate(labels.tolist())]
    half = paired_interval(scorer, dense, scorer, wrong, "accuracy")
    assert half == pytest.approx(1.96 * (0.1 * 0.9 / 80) ** 0.5, rel=0.35)
    copies = [{**row, "sentence": f"film {i // 10}"} for i, row in enumerate(rows * 13)]
    many = Scorer("copies", copies, scorer.task, model, tokenizer)
    assert paired_interval(many, dense * 13, many, wrong * 13, "accuracy") > 1.2 * half / 13**0.5
    few = Scorer("few", rows[:20], scorer.task, model, tokenizer)
    assert paired_interval(few, dense[:20], few, dense[:20], "accuracy") is None
