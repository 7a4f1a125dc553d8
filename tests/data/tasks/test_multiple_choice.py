"""Multiple choice in the column layouts of public data sets."""

import pytest
import torch

from tests.conftest import make_model, make_tokenizer
from trimformer.data.batches import make_batches, mean_length
from trimformer.data.outputs import predict
from trimformer.data.tasks import ChoiceTask, task_of
from trimformer.data.tasks.multiple_choice import settle_choices
from trimformer.errors import TrimformerError
from trimformer.evaluation.scores import Scorer

MODEL = make_model(head="ForMultipleChoice")
SHAPES = {
    "swag": {"sent1": "the film", "sent2": "it", **{f"ending{i}": w for i, w in enumerate(["good", "bad"])}},
    "hellaswag": {"ctx": "the film", "endings": ["it good", "it bad"]},
    "race": {"article": "the film", "question": "it", "options": ["good", "bad"]},
    "arc": {"question": "the film", "choices": {"text": ["it good", "it bad"], "label": ["A", "B"]}},
    "piqa": {"goal": "the film", "sol1": "it good", "sol2": "it bad"},
    "copa": {"premise": "the film", "question": "it", "choice1": "good", "choice2": "bad"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_becomes_one_pair_of_texts_per_choice(shape):
    rows = [SHAPES[shape]]
    task = task_of(MODEL, rows)
    (feature,) = task.encode(rows, make_tokenizer(), MODEL.config)
    decoded = [make_tokenizer().decode(ids) for ids in feature["input_ids"]]
    assert decoded == ["[CLS] the film [SEP] it good [SEP]", "[CLS] the film [SEP] it bad [SEP]"]
    assert (type(task), task.metric, "labels" in feature) == (ChoiceTask, None, False)


@pytest.mark.parametrize("label", [1, "1", 1.0, "B", "b", "it bad"])
def test_the_correct_choice_is_given_by_position_letter_or_text(label):
    rows = [{**SHAPES["arc"], "answerKey": label}]
    task = task_of(MODEL, rows)
    features = task.encode(rows, make_tokenizer(), MODEL.config)
    assert features[0]["labels"] == 1
    assert task.score([torch.tensor([0.0, 1.0])], features, rows)["accuracy"] == 1.0


def test_numbered_columns_are_ordered_by_their_numbers():
    rows = [{"question": "a", **{f"option{i}": f"film {i}" for i in range(12)}, "label": 10}]
    task = task_of(MODEL, rows)
    assert task.choice_columns == tuple(f"option{i}" for i in range(12))


def test_labels_of_all_rows_are_read_alike():
    def labels(rows, some=None):
        task = settle_choices(task_of(MODEL, rows), [rows])
        return [feature["labels"] for feature in task.encode(some or rows, make_tokenizer(), MODEL.config)]

    rows = [{"question": "a", "choices": choices, "label": "1"} for choices in (["0", "1", "2"], ["1", "2", "3"])]
    with pytest.raises(TrimformerError, match="can be texts of choices or their positions"):
        labels(rows)
    rows[1]["choices"] = ["x", "y", "z"]
    assert labels(rows) == [1, 1]
    rows = [{"question": "a", "choices": ["5", "1", "0"], "label": label} for label in ("1", "0", "5")]
    assert labels(rows) == [1, 2, 0]
    assert labels(rows, rows[1:2]) == [2]  # whichever rows are drawn
    rows = [{"question": "a", "choices": ["good", "bad"], "label": label} for label in ("bad", "good", "B")]
    assert labels(rows) == [1, 0, 1]


def test_names_of_choices_have_priority_over_positions():
    rows = [{"question": "a", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}]
    assert task_of(MODEL, rows).encode(rows, make_tokenizer(), MODEL.config)[0]["labels"] == 1


def test_positions_from_0_beside_choices_named_from_1_are_refused():
    choices = {"text": ["x", "y"], "label": ["1", "2"]}
    rows = [{"question": "a", "choices": choices, "label": label} for label in (0, 1)]
    task = task_of(MODEL, rows)
    with pytest.raises(TrimformerError, match="the label 0 is a position, but the choices are named 1, 2"):
        settle_choices(task, [rows])
    assert settle_choices(task, [[{**row, "label": row["label"] + 1} for row in rows]]) == task


def test_rows_with_the_same_number_of_choices_share_batches():
    rows = [{"question": "a", "choices": ["film"] * n + ["good bad film"], "label": 0} for n in (1, 2, 1, 2, 2)]
    scorer = Scorer("v", rows, task_of(MODEL, rows), MODEL, make_tokenizer())
    assert [tuple(batch["input_ids"].shape) for batch in scorer.batches] == [(3, 3, 7), (2, 2, 7)]
    assert [batch["labels"].shape for batch in scorer.batches] == [(3,), (2,)]
    assert set(scorer(MODEL)[0]) == {"accuracy", "accuracy_ci95"}


def test_outputs_do_not_depend_on_the_batch():
    rows = [{"question": "a " * n, "choices": ["film", "good " * n]} for n in range(1, 6)]
    features = task_of(MODEL, rows).encode(rows, make_tokenizer(), MODEL.config)
    together, alone = make_batches(features, make_tokenizer(), 8), make_batches(features, make_tokenizer(), 1)
    assert torch.allclose(predict(MODEL, together)[0], torch.cat(predict(MODEL, alone)), atol=1e-5)
    assert [len(b["index"]) for b in make_batches(features, make_tokenizer(), 8, max_tokens=60)] == [2, 3]
    assert mean_length(features) == sum(3 + 2 * n for n in range(1, 6)) / 5


def test_named_columns_have_priority():
    rows = [{"a": "x", "b": ["y", "z"], "question": "no", "choices": ["no", "no"], "right": 1}]
    task = task_of(MODEL, rows, text_columns=["a", "b"], label_column="right")
    assert (task.context_column, task.choice_columns, task.label_column) == ("a", ("b",), "right")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "choices": ["x"]}, "'choices' in row 1 is not a list of two"),
        ({"question": "a", "choices": 7}, "'choices' in row 1 is not a list of two"),
        ({"question": "a", "choices": ["x", "y"], "label": 2}, "label '2' in row 1 matches none of its 2 choices"),
        ({"question": "a", "choices": ["x", "y"], "label": -1}, "label '-1' in row 1"),
        ({"question": "a", "label": 1}, "no column of choices found among question, label"),
        ({"choices": ["x", "y"]}, "no column of questions found"),
    ],
)
def test_bad_rows_are_named(row, words):
    with pytest.raises(TrimformerError, match=words):
        task_of(MODEL, [row]).encode([row], make_tokenizer(), MODEL.config)


def test_one_named_column_is_an_error():
    with pytest.raises(TrimformerError, match="'a' is one column; name two"):
        task_of(MODEL, [{"a": "x"}], text_columns=["a"])
