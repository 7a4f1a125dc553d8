"""The task of a run is inferred from all of its rows."""

import logging

import pytest

from tests.commands import problem_model, problem_rows
from tests.conftest import make_model
from trimformer.data.tasks import SpanTask
from trimformer.options.data import DataOptions
from trimformer.session.task import resolve_task


@pytest.mark.parametrize("where", [0, 1, 2])
def test_questions_without_an_answer_may_be_in_any_set(where):
    sets = [problem_rows("span", 4) for _ in range(3)]
    sets[where][1] = {**sets[where][1], "answers": {"text": [], "answer_start": []}}
    task = resolve_task(None, DataOptions(), problem_model("span"), sets[:2], sets[2])
    assert isinstance(task, SpanTask)
    assert task.with_unanswerable


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"title": "a film", "content": "it is good"}, "only the texts of content are read, and title not"),
        ({"sentence": "a film", "sentence2": "it"}, None),
        ({"query": "a film", "answer": "it", "label": 1}, None),
    ],
)
def test_texts_that_are_not_read_are_named(row, words, caplog):
    with caplog.at_level(logging.WARNING):
        resolve_task(None, DataOptions(), make_model(num_labels=2), [[row] * 3])
    assert [words] == [m[: len(words)] for m in caplog.messages] if words else not caplog.messages
