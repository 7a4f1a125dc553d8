"""Reading data files: text, CSV with any usual separator, and compressed files."""

import gzip
import json

import pytest

from trimformer.data.files import read_rows
from trimformer.data.splits import read_splits
from trimformer.errors import TrimformerError

ROWS = [{"utterance": "a, b; c", "intent": "one"}, {"utterance": "d", "intent": "two"}]
QUOTED = '"a, b; c"'


def test_a_text_file_has_one_text_per_line(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffgood film\r\n\r\n  bad\u2028one \n".encode())
    assert read_rows(path) == [{"text": "good film"}, {"text": "bad\u2028one"}]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_detected_from_the_header(tmp_path, separator):
    path = tmp_path / "rows.csv"
    lines = [["utterance", "intent"], [QUOTED, "one"], ["d", "two"]]
    path.write_text("\n".join(separator.join(fields) for fields in lines))
    assert read_rows(path) == ROWS


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("text\na, b\n", None),  # one column: a comma in a row is an error
        ("text, short;label\na;1\nb, c, d;0\n", ["text, short", "label"]),  # a tie: the separator that fits the rows
        ('"a;b",c\n"x;y",z\n', ["a;b", "c"]),
    ],
)
def test_a_separator_must_fit_every_row(tmp_path, content, columns):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    if columns is None:
        with pytest.raises(TrimformerError, match="row 1 has more or fewer"):
            read_rows(path)
    else:
        assert list(read_rows(path)[0]) == columns


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "txt"])
def test_compressed_files_give_the_same_rows(tmp_path, suffix):
    lines = {"csv": ["text", "a", "b"], "tsv": ["text", "a", "b"], "txt": ["a", "b"]}.get(
        suffix, ['{"text": "a"}', '{"text": "b"}']
    )
    path = tmp_path / f"train.{suffix}.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert read_rows(path) == [{"text": "a"}, {"text": "b"}]
    assert read_splits(path) == {"all": read_rows(path)}
    assert read_splits(tmp_path) == {"train": read_rows(path)}


def test_a_suffix_may_be_in_capitals(tmp_path):
    path = tmp_path / "ROWS.JSONL"
    path.write_text(json.dumps(ROWS[0]))
    assert read_rows(path) == ROWS[:1]


BROKEN = {
    "cut.csv.gz": (gzip.compress(b"text\n" + bytes(range(97, 122)) * 9)[:-9], "cannot be read"),
    "none.jsonl.gz": (b"not compressed", "cannot be read"),
    "empty.txt": (b"\n \n", "is empty"),
    "latin.txt": (b"caf\xe9", "not UTF-8"),
    "rows.parquet.gz": (b"x", "unknown type"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_an_error_that_names_the_file(tmp_path, name):
    content, words = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrimformerError, match=words) as error:
        read_rows(tmp_path / name)
    assert name in str(error.value)
