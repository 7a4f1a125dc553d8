"""Every head calibrates on unlabelled inputs, and columns are guessed from their usual names."""

import pytest

from tests.conftest import make_model, make_tokenizer
from trimformer.data.batches import make_batches
from trimformer.data.outputs import predict
from trimformer.data.rows import as_rows
from trimformer.data.tasks import SpanTask, TextTask, TokenTask, task_of
from trimformer.errors import TrimformerError

EMOTIONS = {"id2label": {0: "joy", 1: "fear", 2: "so so"}, "label2id": {"joy": 0, "fear": 1, "so so": 2}}
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForNextSentencePrediction", "Model")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("data", [["good film", "bad"], {"Utterance": ["good film", "bad"]}])
def test_unlabelled_texts_calibrate_every_head(head, data):
    model, rows = make_model(head=head), as_rows(data)
    task = task_of(model, rows)
    features = task.encode(rows, make_tokenizer(), model.config)
    (batch,) = make_batches(features, make_tokenizer(), 8)
    assert len(predict(model, [batch])[0]) == 2
    assert (task.metric, "labels" in batch) == (None, False)
    assert batch["input_ids"][0].tolist() == make_tokenizer()("good film")["input_ids"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "what", "context": "good film"},
        {"query": "what", "passage": "good film"},
        {"question": "what", "text": "good film"},
        ("what", "good film"),
    ],
)
def test_unlabelled_pairs_calibrate_question_answering(row):
    model, rows = make_model(head="ForQuestionAnswering"), as_rows([row])
    task = task_of(model, rows)
    features = task.encode(rows, make_tokenizer(), model.config)
    assert (type(task), task.metric) == (SpanTask, None)
    assert features[0]["input_ids"] == make_tokenizer()("what", "good film")["input_ids"]
    assert task.score(predict(model, make_batches(features, make_tokenizer(), 8)), features, rows) == {}


def test_named_columns_are_used_for_question_answering():
    rows = [{"q": "what", "c": "good film", "answers": {"text": ["film"], "answer_start": [5]}}]
    model = make_model(head="ForQuestionAnswering")
    task = task_of(model, rows, text_columns=["q", "c"])
    features = task.encode(rows, make_tokenizer(), model.config)
    assert (features[0]["start_positions"], task.metric) == (4, "f1")
    for columns, words in ((["q"], "'q' is one column"), (None, "no columns of a question .* among q, c, answers")):
        with pytest.raises(TrimformerError, match=words):
            task_of(model, rows, text_columns=columns)


def test_texts_with_tags_are_token_classification():
    rows = [{"text": "good film", "tags": "0 1"}]
    assert type(task_of(make_model(head="ForTokenClassification"), rows, text_columns=["text"])) is TokenTask


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        (("utterance", "intent"), "utterance", "intent"),
        (("Text", "Label"), "Text", "Label"),
        (("tweet", "emotion"), "tweet", "emotion"),
        (("comment", "stars"), "comment", "stars"),
        (("abstract", "topic"), "abstract", "topic"),
        (("message", "y"), "message", "y"),
        (("id", "description", "rating"), "description", "rating"),
    ],
)
def test_columns_are_guessed_in_any_case(columns, text, label):
    task = task_of(make_model(), [dict.fromkeys(columns, "1")])
    assert (type(task), task.text_columns, task.label_column) == (TextTask, (text,), label)


def labels_of(rows, **overrides):
    model = make_model(problem_type="multi_label_classification", **EMOTIONS, **overrides)
    task = task_of(model, rows)
    assert task.metric == "micro_f1"
    return [feature["labels"] for feature in task.encode(rows, make_tokenizer(), model.config)]


@pytest.mark.parametrize(("one", "zero"), [(1, 0), ("1", "0"), (True, False), (1.0, 0.0)])
def test_one_column_per_label_is_multi_label(one, zero):
    rows = [{"text": "it", "So so": one, "fear": zero, "joy": one}, {"text": "it", "So so": 0, "fear": 1, "joy": 0}]
    assert labels_of(rows) == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize("label", ["joy,so so", "so so; joy", "joy | so so", "['joy', 'so so']", "0,2", ("joy", 2)])
def test_labels_may_be_joined_in_a_string(label):
    assert labels_of([{"text": "it", "emotions": label}, {"text": "it", "emotions": "so so"}]) == [
        [1.0, 0.0, 1.0],
        [0.0, 0.0, 1.0],
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"joy": 2, "fear": 0, "so so": 0}, "'joy' in row 1 is '2'"),
        ({"joy": "x", "fear": 0, "so so": 0}, "'joy' in row 1 is 'x'"),
        ({"label": "joy,hope"}, "label 'hope' in row 1 is unknown"),
        ({"label": "[oops"}, "not a list|unknown"),
    ],
)
def test_invalid_labels_are_named(row, words):
    with pytest.raises(TrimformerError, match=words):
        labels_of([{"text": "it", **row}])


def test_many_labels_are_not_all_listed():
    names = {f"breed {i}": i for i in range(99)}
    model = make_model(id2label={i: name for name, i in names.items()}, label2id=names, num_labels=99)
    rows = [{"text": "it", "label": "cow"}]
    with pytest.raises(TrimformerError, match=r"and 69 more$"):
        task_of(model, rows).encode(rows, make_tokenizer(), model.config)


def test_a_masked_language_model_has_no_labels():
    with pytest.raises(TrimformerError, match="BertForMaskedLM has no labels"):
        task_of(make_model(head="ForMaskedLM"), [{"text": "a", "label": 1}], label_column="label")
