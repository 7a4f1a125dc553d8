"""Whatever a user's value is, an error message quotes it cut short."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import make_model, make_tokenizer
from tests.data.media_fixtures import audio_model, extractor, image_model, image_processor
from trimformer.data.files import read_rows
from trimformer.data.rows import as_rows
from trimformer.data.tasks.infer_labels import guess_problem, set_labels
from trimformer.errors import TrimformerError, listed, quoted
from trimformer.options.data import DataOptions
from trimformer.session.task import resolve_task

LONGEST = 400
WORDS = ["the", "film"]

HOSTILE: dict[str, Any] = {
    "text": "long " * 20_000,
    "word": "x" * 100_000,
    "list": ["x" * 100_000] * 3,
    "many": list(range(100_000)),
    "object": {"k" * 100_000: "v" * 100_000},
    "wide object": {f"key {i}": i for i in range(10_000)},
    "number": 10**4000,
    "bytes": b"\x00" * 100_000,
    "symbols": "\U0001f600\u202e\n" * 10_000,
    "nested": [[[["x" * 100_000]]]],
    "surrogate": "\ud800" * 100_000,
}

SPAN = {"question": "who", "context": "a film", "answers": {"text": ["film"], "answer_start": [2]}}
CHOICE = {"question": "who", "choices": ["a", "b"], "label": 0}

# A model and a good row; each value of the row, and the name of its column, is spoiled in turn.
ROWS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "single_label": (make_model, {"text": "a film", "label": 1}),
    "multi_label": (lambda: make_model(problem_type="multi_label_classification"), {"text": "a film", "label": [1]}),
    "regression": (lambda: make_model(num_labels=1), {"text": "a film", "label": 0.5}),
    "pair": (make_model, {"sentence1": "a film", "sentence2": "a plot", "label": 0}),
    "tokens": (lambda: make_model(head="ForTokenClassification"), {"tokens": WORDS, "ner_tags": [0, 1]}),
    "span": (lambda: make_model(head="ForQuestionAnswering"), SPAN),
    "choice": (lambda: make_model(head="ForMultipleChoice"), CHOICE),
    "embedding": (lambda: make_model(head="Model"), {"sentence1": "a film", "sentence2": "b", "score": 0.5}),
    "encoded": (make_model, {"input_ids": [4, 5], "attention_mask": [1, 1], "labels": 1}),
    "image": (image_model, {"image": "a.png", "label": "cat"}),
    "audio": (audio_model, {"audio": {"array": [0.0] * 600, "sampling_rate": 1000}, "label": "cat"}),
}


def refusal(call):
    """The message of the error; empty if there is none."""
    try:
        call()
    except TrimformerError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
def test_no_error_quotes_a_long_value_whole(kind):
    make, good = ROWS[kind]
    model = make()
    processor = {"image": image_processor, "audio": extractor}.get(kind, make_tokenizer)()

    def encode(row):
        rows = [good, row]
        resolve_task(None, DataOptions(), model, [rows]).encode(rows, processor, model.config)

    messages = {}
    for name, value in HOSTILE.items():
        for column in good:
            messages[f"{column} is {name}"] = refusal(
                lambda column=column, value=value: encode({**good, column: value})
            )
            if isinstance(good[column], dict):
                for key in good[column]:
                    inner = {**good[column], key: value}
                    messages[f"{column}.{key} is {name}"] = refusal(lambda c=column, v=inner: encode({**good, c: v}))
            renamed = (
                {str(value) if key == column else key: item for key, item in good.items()} if name != "number" else good
            )
            messages[f"{column} is called {name}"] = refusal(
                lambda row=renamed: resolve_task(None, DataOptions(), model, [[row] * 2])
            )
    assert any(messages.values())
    assert {name: len(message) for name, message in messages.items() if len(message) > LONGEST} == {}
    assert [message for message in messages.values() if "\n" in message] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_no_error_of_data_in_hand_or_of_labels_to_train_on_is_long(name):
    value, row = HOSTILE[name], {"text": "a", "label": 1}
    key = value if isinstance(value, str) else "k" * 100_000
    calls = [
        lambda: as_rows(value),
        lambda: as_rows([value]),
        lambda: as_rows([(value, 1, 2, 3)]),
        lambda: as_rows({key: [1], "b": [1, 2]}),
        lambda: as_rows({key: 1}),
        lambda: guess_problem([{key: 1}], "label"),
        lambda: guess_problem([{**row, "label": value}, row]),
        lambda: guess_problem([{"text": "a", **dict.fromkeys(map(str, range(9999)))}], key),
        lambda: set_labels(make_model().config, "single_label", "label", [row, {**row, "label": value}]),
        lambda: set_labels(make_model().config, "single_label", key, [{key: 1}, {key: 10**9}, {key: "b"}]),
    ]
    assert [len(message) for message in map(refusal, calls) if len(message) > LONGEST] == []


LONG = "k" * 100_000
FILES = {
    "keys.jsonl": json.dumps({"a": 1})[:-1] + f', "{LONG}": 1, "{LONG}": 2}}',
    "lists.json": json.dumps({f"{LONG}{i}": [{"a": 1}] for i in range(50)}),
    "header.csv": f"{LONG},{LONG}\na,b\n",
    "line.jsonl": LONG,
    "field.csv": f'a,b\n"{LONG}"x,{LONG}\n',
    "rows.tsv": f"a\tb\n{LONG}\n",
}


@pytest.mark.parametrize("name", FILES)
def test_no_error_of_a_file_is_long(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    message = refusal(lambda: read_rows(tmp_path / name))
    assert name in message
    assert len(message.replace(str(tmp_path), "")) < LONGEST


def test_values_are_quoted_on_one_line_and_cut():
    assert quoted("it's\na") == '"it\'s\\na"'
    assert quoted(1e308) == "1e+308"
    assert quoted("a" * 61) == f"'{'a' * 30}'..."
    assert quoted(10**5000) == "of type int"
    assert all(len(quoted(value)) <= 70 for value in HOSTILE.values())
    assert listed(["a", "b"]) == "a, b"
    assert listed(["x" * 100] * 50) == ", ".join(["x" * 37 + "..."] * 4) + " and 46 more"
