"""Rows without a text: not calibrated on, scored, and told of."""

import pytest

from trimformer import TrimformerError
from trimformer.data.tasks import ChoiceTask, EmbeddingTask, ImageTask, SpanTask, TextTask, TokenTask
from trimformer.data.tasks.blank_rows import count_blank_rows, drop_blank_rows

TEXT = TextTask(name="text", problem="single_label", text_columns=("text",))
PAIR = TextTask(name="pair", problem="single_label", text_columns=("a", "b"))

# A task, rows that are blank to it, and rows that are not.
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
def test_a_row_is_blank_where_none_of_its_texts_has_a_letter(name):
    task, blank, others = CASES[name]
    assert [task.is_blank(row) for row in [*blank, *others]] == [True] * len(blank) + [False] * len(others)


def test_rows_that_are_left_keep_their_numbers_and_those_left_out_are_told(caplog):
    rows = [{"text": ""}, {"text": "a"}, {"text": " "}, {"text": "b"}]
    left = drop_blank_rows(rows, TEXT)
    assert (list(left), left.numbers) == ([rows[1], rows[3]], [2, 4])
    assert count_blank_rows("mine", rows, TEXT) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "rows to calibrate on without a text, left out: 2 of 4",
        "rows of 'mine' without a text, scored like all others: 2 of 4",
    ]


def test_rows_that_all_have_a_text_are_left_as_they_are(caplog):
    rows = [{"text": "a"}, {"text": "b"}]
    assert drop_blank_rows(rows, TEXT) is rows
    assert count_blank_rows("mine", rows, TEXT) == 0
    assert not caplog.records


def test_where_no_row_has_a_text_another_column_is_asked_for():
    rows = [{"text": ""}, {"text": " "}]
    with pytest.raises(TrimformerError, match="all 2 rows to calibrate on are without a text"):
        drop_blank_rows(rows, TEXT)
    with pytest.raises(TrimformerError, match="all 2 rows of 'mine' are without a text"):
        count_blank_rows("mine", rows, TEXT)
