"""Rows without a text are left out of calibration, scored like all others, and logged."""

import pytest

from trimformer import TrimformerError
from trimformer.data.tasks import ChoiceTask, EmbeddingTask, ImageTask, SpanTask, TextTask, TokenTask
from trimformer.data.tasks.blank_rows import count_blank_rows, drop_blank_rows

TEXT = TextTask(name="text", problem="single_label", text_columns=("text",))
PAIR = TextTask(name="pair", problem="single_label", text_columns=("a", "b"))

# A task, rows that it treats as blank, and rows that it does not.
CASES = {
    "a text": (TEXT, [{"text": ""}, {"text": " \t\n\u00a0\u2028"}], [{"text": "."}, {"text": None}, {"text": 0}, {}]),
    "a pair": (PAIR, [{"a": "", "b": " "}], [{"a": "x", "b": ""}, {"a": "", "b": "x"}, {"a": ""}]),
    "a list where a text should be": (TEXT, [], [{"text": []}, {"text": [""]}]),
    "embedded texts": (
        EmbeddingTask(name="e", text_columns=("a", "b")), [{"a": " ", "b": ""}], [{"a": "x", "b": ""}]
    ),
    "a question": (
        SpanTask(name="s"), [{"question": "", "context": "\n"}], [{"question": "", "context": "x"}]
    ),
    "words": (
        TokenTask(name="t"), [{"tokens": []}, {"tokens": ["", " "]}, {"tokens": " "}], [{"tokens": ["", "x"]}, {}]
    ),
    "choices": (
        ChoiceTask(name="c", context_column="context"),
        [{"context": "", "choices": ["", " "]}, {"context": " ", "choices": {"text": ["", ""], "label": ["A", "B"]}}],
        [{"context": "", "choices": ["", "x"]}, {"context": "x", "choices": ["", ""]}, {"choices": []}, {}],
    ),
    "an image": (ImageTask(name="i", problem="single_label"), [], [{"image": ""}]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_blank_if_all_its_texts_are_white_space(name):
    task, blank, others = CASES[name]
    assert [task.is_blank(row) for row in [*blank, *others]] == [True] * len(blank) + [False] * len(others)


def test_remaining_rows_keep_their_numbers_and_blank_rows_are_logged(caplog):
    rows = [{"text": ""}, {"text": "a"}, {"text": " "}, {"text": "b"}]
    remaining = drop_blank_rows(rows, TEXT)
    assert (list(remaining), remaining.numbers) == ([rows[1], rows[3]], [2, 4])
    assert count_blank_rows("mine", rows, TEXT) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 calibration rows have no text and are left out",
        "2 of 4 rows of 'mine' have no text and are scored like all others",
    ]


def test_rows_that_all_have_a_text_are_returned_unchanged(caplog):
    rows = [{"text": "a"}, {"text": "b"}]
    assert drop_blank_rows(rows, TEXT) is rows
    assert count_blank_rows("mine", rows, TEXT) == 0
    assert not caplog.records


def test_rows_that_are_all_blank_are_an_error():
    rows = [{"text": ""}, {"text": " "}]
    with pytest.raises(TrimformerError, match="all 2 calibration rows have no text"):
        drop_blank_rows(rows, TEXT)
    with pytest.raises(TrimformerError, match="all 2 rows of 'mine' have no text"):
        count_blank_rows("mine", rows, TEXT)
