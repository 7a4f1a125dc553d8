"""Text tasks: labels, pairs, guessed columns and scores."""

import pytest
import torch

from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer.data.outputs import find_problem
from trimformer.data.tasks import TASKS, find_task, infer_task
from trimformer.data.tasks.text import TextTask, guess_text_columns, text_task
from trimformer.errors import TrimformerError

NAMES = {"id2label": {0: "bad", 1: "good", 2: "so so"}, "label2id": {"bad": 0, "good": 1, "so so": 2}}


def config(**overrides):
    return make_model(num_hidden_layers=1, **{**NAMES, **overrides}).config


def encode(labels, problem="single_label", **overrides):
    rows = [{"text": "the film", "label": label} for label in labels]
    features = TextTask(name="text", problem=problem).encode(rows, make_tokenizer(), config(**overrides))
    return [feature["labels"] for feature in features]


@pytest.mark.parametrize("labels", [[2, 0, 1], ["so so", "bad", "good"], ["2", "0", "1"], [2.0, 0.0, 1.0]])
def test_classes_are_given_by_id_name_or_number(labels):
    assert encode(labels) == [2, 0, 1]


def test_a_name_that_is_a_number_is_a_name():
    names = {"id2label": {0: "2", 1: "1", 2: "0"}, "label2id": {"2": 0, "1": 1, "0": 2}}
    assert encode(["2", "0"], **names) == [0, 2]


@pytest.mark.parametrize("label", [3, -1, "3", "-1", "nice", 1.5, "1.5", float("nan"), [1], "²", "--1", {"a": 1}])
def test_an_unknown_class_names_its_row(label):
    with pytest.raises(TrimformerError, match="row 2"):
        encode([1, label])


@pytest.mark.parametrize("label", [["good", "bad"], [0, 1], [1, 1, 0], "bad good", "0 1", ["1", "0"]])
def test_several_labels_are_ids_names_or_zeros_and_ones(label):
    assert encode([label, []], "multi_label") == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("label", [1, ["nice"], [3], [[1]]])
def test_an_invalid_list_of_classes_names_its_row(label):
    with pytest.raises(TrimformerError, match="row 2"):
        encode([[0], label], "multi_label")


def test_regression_reads_numbers_and_names_the_row_of_another_label():
    assert encode([1, 2.5, "-3.5"], "regression") == [1.0, 2.5, -3.5]
    for label in ("good", [1.0]):
        with pytest.raises(TrimformerError, match="row 2"):
            encode([0, label], "regression")


@pytest.mark.parametrize("label", [float("nan"), "nan", float("inf")])
def test_a_regression_label_that_is_not_finite_names_its_row(label):
    with pytest.raises(TrimformerError, match="row 2"):
        encode([0, label], "regression")


@pytest.mark.parametrize(
    "rows",
    [
        [{"label": 0}],
        [{"text": "a", "label": 0}, {"text": None, "label": 0}],
        [{"text": "a", "label": 0}, {"text": "b"}],
    ],
)
def test_a_missing_column_is_named_with_its_row(rows):
    with pytest.raises(TrimformerError, match=rf"column '(text|label)' (is empty )?in row {len(rows)}"):
        TextTask(name="text", problem="single_label").encode(rows, make_tokenizer(), config())


def test_no_rows_are_an_error():
    with pytest.raises(TrimformerError, match="no rows"):
        TextTask(name="text", problem="single_label").encode([], make_tokenizer(), config())


def test_pairs_are_encoded_as_pairs_and_truncated():
    task = TextTask(name="pair", problem="single_label", text_columns=("a", "b"), label_column=None, max_length=8)
    rows = [{"a": "good film", "b": "bad plot"}, {"a": "good " * 20, "b": "bad " * 20}]
    short, long = task.encode(rows, make_tokenizer(), config())
    assert short["input_ids"] == make_tokenizer()("good film", "bad plot")["input_ids"]
    assert len(long["input_ids"]) == 8
    assert "labels" not in short


def score(problem, outputs, labels, *metrics):
    task = TextTask(name="text", problem=problem, metrics=metrics)
    return task.score([torch.tensor(o) for o in outputs], [{"labels": label} for label in labels], [])


def test_scores_equal_values_computed_by_hand():
    logits = [[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    assert score("single_label", logits, [1, 1, 2], "accuracy")["accuracy"] == pytest.approx(2 / 3)
    labels = [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert score("multi_label", logits, labels, "micro_f1") == {"micro_f1": pytest.approx(3 / 4)}
    assert score("regression", [[1.0], [2.0], [3.0]], [10.0, 20.0, 30.0], "pearson") == {"pearson": pytest.approx(1)}


def test_rows_without_labels_have_no_score():
    assert TextTask(name="text", problem="single_label").score([torch.zeros(2)], [{"input_ids": [0]}], []) == {}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["label", "sentence"], ("sentence",)),
        (["sentence2", "idx", "sentence1"], ("sentence1", "sentence2")),
        (["text", "text_pair"], ("text", "text_pair")),
        (["question", "sentence", "label"], ("question", "sentence")),
        (["label", "query", "answer"], ("query", "answer")),
        (["question", "context", "answer"], ("question", "context")),
        (["anchor", "positive"], ("anchor", "positive")),
        (["Question", "Answer"], ("Question",)),  # the answer is the label
        (["label", "idx"], None),
    ],
)
def test_text_columns_are_guessed_from_the_usual_names(columns, expected):
    assert guess_text_columns(columns) == expected


def test_named_columns_have_priority():
    rows = [{"text": "a", "summary": "b", "label": 0, "stars": 1}]
    task = text_task("single_label", rows, text_columns=["summary"], label_column="stars")
    assert (task.text_columns, task.label_column) == (("summary",), "stars")


def test_no_text_column_is_an_error_that_lists_the_columns():
    with pytest.raises(TrimformerError, match="idx, label"):
        text_task("single_label", [{"idx": 0, "label": 1}])


@pytest.mark.parametrize(
    ("head", "overrides", "metric"),
    [
        ("ForSequenceClassification", {"num_labels": 2}, "accuracy"),
        ("ForSequenceClassification", {"num_labels": 1}, "pearson"),
        ("ForSequenceClassification", {"problem_type": "multi_label_classification"}, "micro_f1"),
        ("Model", {}, None),
    ],
)
def test_the_task_follows_the_models_head(head, overrides, metric):
    model = make_model(head=head, **overrides)
    task = infer_task(find_problem(model), model.config, make_rows())
    assert task.metric == metric
    assert task.text_columns == ("sentence",)


def test_unlabelled_rows_have_no_metric():
    task = infer_task("single_label", config(), [{"text": "good film"}])
    assert (task.metric, task.label_column) == (None, None)


def test_an_unknown_task_lists_the_predefined_ones():
    assert {"mnli", "qqp", "qnli", "sst2", "stsb", "mrpc", "rte", "cola"} <= set(TASKS)
    assert find_task("stsb").problem == "regression"
    with pytest.raises(TrimformerError, match=r"'sst-3' is unknown; known are cola, sst2"):
        find_task("sst-3")


def test_texts_are_truncated_at_the_models_limit_or_max_length():
    rows, model = [{"text": "film " * 200}], make_model()
    for max_length, expected in ((None, 64), (10, 10)):
        task = infer_task("single_label", model.config, rows, max_length=max_length)
        assert len(task.encode(rows, make_tokenizer(), model.config)[0]["input_ids"]) == expected
