"""Fine-tuning infers the problem and the labels from the rows."""

import pytest
from transformers import BertConfig

from trimformer import TrimformerError
from trimformer.data.tasks import TASKS
from trimformer.data.tasks.infer_labels import guess_problem, problem_of, set_labels

HEAD = "BertForSequenceClassification"


def rows(*labels, column="label"):
    return [{"text": "a film", column: label} for label in labels]


def make_config(names=None, head=None):
    labels = (
        {} if names is None else {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    return BertConfig(**labels, architectures=head and [head])


SPAN = [{"question": "who", "context": "it", "answers": {"text": [], "answer_start": []}}]
TAGGED = [{"tokens": ["a", "film"], "ner_tags": [0, 1]}]

GUESSES = {
    "numbers": (rows(0, 1, 2), ("single_label", "label")),
    "digits": (rows("0", "1"), ("single_label", "label")),
    "names": (rows("good", "bad"), ("single_label", "label")),
    "names that read as numbers": (rows("nan", "inf"), ("single_label", "label")),
    "truth values": (rows(True, False), ("single_label", "label")),
    "whole floats": (rows(1.0, 0.0), ("single_label", "label")),
    "fractions": (rows(1, 0.5), ("regression", "label")),
    "fractions in a CSV file": (rows("1", "-0.25"), ("regression", "label")),
    "another column": (rows(0.5, 1.5, column="score"), ("regression", "score")),
    "lists": (rows([0], [1, 2]), ("multi_label", "label")),
    "empty lists": (rows([], []), ("multi_label", "label")),
    "tags": (TAGGED, ("tokens", "ner_tags")),
    "answers": (SPAN, ("span", None)),
    "a text named tokens": ([{"tokens": "a film", "text": "b", "label": 1}], ("single_label", "label")),
}


@pytest.mark.parametrize("name", GUESSES)
def test_the_problem_is_guessed_from_the_columns(name):
    data, expected = GUESSES[name]
    assert guess_problem(data) == expected


def test_a_named_column_has_priority():
    data = [{"text": "a", "label": 1, "stars": 0.5}, {"text": "b", "label": 0, "stars": 1.5}]
    assert guess_problem(data, "stars") == ("regression", "stars")


@pytest.mark.parametrize(
    ("data", "column", "words"),
    [
        ([{"text": "a", "id": 1}], None, "text, id"),
        (rows(1), "stars", "'stars'"),
        (rows(1, [0]), None, "mixes lists"),
    ],
)
def test_unusable_label_columns_are_an_error(data, column, words):
    with pytest.raises(TrimformerError, match=words):
        guess_problem(data, column)


@pytest.mark.parametrize("name", TASKS)
def test_predefined_tasks_have_a_problem_and_a_label_column(name):
    problem, column = problem_of(TASKS[name])
    assert problem == {"stsb": "regression", "squad": "span", "squad_v2": "span"}.get(name, "single_label")
    assert column == (None if problem == "span" else "label")


LABELS = {
    "numbers": ("single_label", rows(0, 3, 1), ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]),
    "digits": ("single_label", rows("0", "2"), ["LABEL_0", "LABEL_1", "LABEL_2"]),
    "names": ("single_label", rows("so-so", "bad", "good", "bad"), ["bad", "good", "so-so"]),
    "one class": ("single_label", rows(0, 0), ["LABEL_0", "LABEL_1"]),
    "some rows unlabelled": ("single_label", rows("yes", None, "no"), ["no", "yes"]),
    "multi-hot": ("multi_label", rows([0, 1, 1], [0, 0, 0]), ["LABEL_0", "LABEL_1", "LABEL_2"]),
    "ids": ("multi_label", rows([2], [0, 1]), ["LABEL_0", "LABEL_1", "LABEL_2"]),
    "lists of names": ("multi_label", rows(["x"], ["z", "y"], []), ["x", "y", "z"]),
    "named tags": ("tokens", rows(["O", "B-X"], ["O"]), ["B-X", "O"]),
    "tags in a CSV file": ("tokens", rows("O B-X", "O"), ["B-X", "O"]),
    "tags": ("tokens", rows([0, 4], [1]), [f"LABEL_{i}" for i in range(5)]),
}


@pytest.mark.parametrize("name", LABELS)
def test_the_labels_of_the_rows_are_set_in_the_config(name):
    problem, data, names = LABELS[name]
    config = make_config()
    set_labels(config, problem, "label", data)
    assert config.num_labels == len(names)
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("labels", "is_kept"), [(("good", "bad"), True), ((0, 1), True), (("good", "odd"), False), ((0, 3), False)]
)
def test_a_head_keeps_its_labels_if_they_include_those_of_the_rows(labels, is_kept):
    config = make_config(["good", "so-so", "bad"], HEAD)
    set_labels(config, "single_label", "label", rows(*labels))
    assert (config.id2label == {0: "good", 1: "so-so", 2: "bad"}) == is_kept


def test_without_a_head_the_rows_set_the_number_of_labels():
    config = make_config(["a", "b", "c", "d", "e"])
    set_labels(config, "single_label", "label", rows(0, 1, 2))
    assert config.num_labels == 3


@pytest.mark.parametrize(
    ("problem", "problem_type", "num_labels"),
    [
        ("regression", "regression", 1),
        ("multi_label", "multi_label_classification", 2),
        ("single_label", None, 2),
        ("span", None, 2),
        ("tokens", None, 2),
    ],
)
def test_the_problem_type_of_the_config_is_replaced(problem, problem_type, num_labels):
    data = {"regression": rows(0.5), "multi_label": rows([0, 1]), "tokens": rows([0, 1])}.get(problem, rows(0, 1))
    for before in (None, "regression", "multi_label_classification"):
        config = BertConfig(problem_type=before, num_labels=1 if before == "regression" else 5)  # type: ignore[call-arg]
        set_labels(config, problem, None if problem == "span" else "label", data)
        assert (config.problem_type, config.num_labels) == (problem_type, num_labels)


@pytest.mark.parametrize(
    ("problem", "labels"), [("single_label", ["good", 1]), ("multi_label", [["x"], [0]]), ("tokens", ["O 1", "O"])]
)
def test_names_and_numbers_are_not_mixed(problem, labels):
    with pytest.raises(TrimformerError, match="'label' mixes label names and numbers"):
        set_labels(make_config(), problem, "label", rows(*labels))


@pytest.mark.parametrize(("problem", "labels"), [("single_label", [{"a": 1}]), ("multi_label", [[["x"]]])])
def test_labels_are_names_or_numbers(problem, labels):
    with pytest.raises(TrimformerError, match="neither names nor numbers"):
        set_labels(make_config(), problem, "label", rows(*labels))


@pytest.mark.parametrize(
    ("model_names", "labels", "data_names", "expected"),
    [
        (["bad", "good"], ("Good", "BAD"), (), ["bad", "good"]),
        (["1", "2", "3"], (1, 3), (), ["1", "2", "3"]),
        (["1", "2", "3"], ("1", "3"), (), ["1", "2", "3"]),
        (["good", "bad"], (0, 1), ("bad", "good"), ["good", "bad"]),
        (["bad", "good"], (0, 1), ("ham", "spam"), ["ham", "spam"]),
        (["LABEL_0", "LABEL_1"], (0, 1), ("ham", "spam"), ["LABEL_0", "LABEL_1"]),
    ],
)
def test_labels_of_a_head_are_kept_if_they_are_those_of_the_data(model_names, labels, data_names, expected):
    config = make_config(model_names, HEAD)
    set_labels(config, "single_label", "label", rows(*labels), data_names)
    assert list(config.id2label.values()) == expected
