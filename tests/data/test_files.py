"""Reading data files: text, CSV with any usual separator, and compressed files."""

import codecs
import gzip
import json

import datasets
import pandas
import pytest

from trimformer.data import files
from trimformer.data.files import read_rows, read_texts
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


TABLE = [{"text": "a film", "label": 1}, {"text": "b", "label": 0}]
TABLES = {
    "pandas, columns": '{"text": {"0": "a film", "7": "b"}, "label": {"0": 1, "7": 0}}',
    "pandas, index": '{"0": {"text": "a film", "label": 1}, "7": {"text": "b", "label": 0}}',
    "pandas, split": '{"columns": ["text", "label"], "index": [0, 7], "data": [["a film", 1], ["b", 0]]}',
    "pandas, table": json.dumps({"schema": {"fields": []}, "data": TABLE}),
    "under data": json.dumps({"version": 1, "data": TABLE}, indent=1),
    "columns under data": '{"data": {"text": ["a film", "b"], "label": [1, 0]}}',
    "columns": '{"text": ["a film", "b"], "label": [1, 0]}',
    "one object over several lines": json.dumps(TABLE[0], indent=1),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_one_json_object_gives_its_rows(tmp_path, name):
    (tmp_path / "x.json").write_text(TABLES[name])
    assert read_rows(tmp_path / "x.json") == (TABLE[:1] if "over several" in name else TABLE)


@pytest.mark.parametrize(
    "row",
    [
        {"tokens": ["a", "film"], "ner_tags": [0, 1]},
        {"text": "a film", "label": [1]},
        {"data": "a film"},
        {"answers": {"text": ["a"], "answer_start": [0]}},
        {"question": "who", "choices": [{"text": "a"}, {"text": "b"}]},
    ],
)
def test_a_file_of_one_row_stays_one_row(tmp_path, row):
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    assert read_rows(tmp_path / "x.jsonl") == [row]


ARTICLE = {
    "title": "Films",
    "paragraphs": [
        {
            "context": "a good film",
            "qas": [
                {"id": "1", "question": "what", "answers": [{"text": "film", "answer_start": 7}] * 2},
                {"id": "2", "question": "who", "is_impossible": True, "answers": []},
            ],
        }
    ],
}


@pytest.mark.parametrize("content", [{"version": "v2.0", "data": [ARTICLE] * 2}, [ARTICLE] * 2])
def test_squads_own_file_gives_a_row_for_each_question(tmp_path, content):
    (tmp_path / "dev-v2.0.json").write_text(json.dumps(content))
    rows = read_rows(tmp_path / "dev-v2.0.json")
    first = {"title": "Films", "context": "a good film", "question": "what", "id": "1"}
    assert len(rows) == 4
    assert rows[0] == {**first, "answers": {"text": ["film"] * 2, "answer_start": [7, 7]}}
    assert rows[3]["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"data": [1, 2]}, "'data' is not a list of objects"),
        ({"train": TABLE, "validation": TABLE}, "several tables, train, validation; write each"),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, "not in SQuAD's format"),
        ({"text": {"0": "a"}, "label": {"1": 0}}, "columns have different rows"),
    ],
)
def test_a_json_object_of_another_layout_is_named(tmp_path, content, words):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(TrimformerError, match=rf"x.json.*{words}"):
        read_rows(tmp_path / "x.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "txt", "csv.gz"])
def test_a_byte_order_mark_gives_the_encoding(tmp_path, encoding, suffix):
    mark = {"utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_BE}.get(encoding, b"")
    codec = encoding + "-be" if mark else encoding
    content = '{"text": "café ☃"}' if "json" in suffix else "café ☃" if suffix == "txt" else "text\r\ncafé ☃\r\n"
    for data in (content.encode(encoding), mark + content.encode(codec)):
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
        assert read_rows(path) == [{"text": "café ☃"}]


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "x.txt.gz"
    part = gzip.compress(b"aa\n" * (1 << 20))
    path.write_bytes(part * 200)  # 600 MB in 0.6 MB
    with pytest.raises(TrimformerError, match=r"x.txt.gz.* unpack to more than"):
        read_rows(path)
    with pytest.raises(TrimformerError, match=r"x.txt.gz.* unpack to more than"):
        read_texts(path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt", "parquet"])
def test_a_file_larger_than_the_memory_is_named(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"x.{suffix}"
    if suffix == "parquet":
        datasets.Dataset.from_list([{"text": "a"}] * 999).to_parquet(path)
    else:
        path.write_text('{"text": "a"}\n' * 999)
    monkeypatch.setattr(files, "_memory_bytes", lambda: 5000)
    with pytest.raises(TrimformerError, match=rf"x.{suffix}' does not fit into memory"):
        read_rows(path)


def test_an_empty_name_is_not_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n' * 9)
    monkeypatch.chdir(tmp_path)
    for read in (read_splits, read_rows, read_texts):
        with pytest.raises(TrimformerError, match="empty name"):
            read("")


BROKEN = {
    "wide.csv": (("a," * 50_000 + "a").encode(), "names column 'a' twice"),
    "utf16.csv": ("text\na\n".encode("utf-16-le"), "byte 1 is zero"),
    "half.csv": (b"\xff\xfea\x00b", "not UTF-16"),
    "cut.csv.gz": (gzip.compress(b"text\n" + bytes(range(97, 122)) * 9)[:-9], "cannot be read"),
    "none.jsonl.gz": (b"not compressed", "cannot be read"),
    "empty.txt": (b"\n \n", "is empty"),
    "latin.txt": (b"caf\xe9", "not UTF-8"),
    "rows.parquet.gz": (b"x", "unknown type"),
    "two-rows.tsv": (b'text\tlabel\n"I liked it .\t1\nso did I ."\t0\nbad\t0\n', "a quote at its start is not closed"),
    "quote.tsv": (b'text\tlabel\n"open\t0\nfine\t1\nclosed"\t0\n', "a quote at its start is not closed"),
}


def test_a_quoted_field_of_a_tsv_file_may_hold_tabs_and_line_ends(tmp_path):
    rows = [{"text": "def f():\n\treturn 1\n", "label": "1"}, {"text": "fine", "label": "0"}]
    pandas.DataFrame(rows).to_csv(tmp_path / "code.tsv", sep="\t", index=False)
    assert list(read_rows(tmp_path / "code.tsv")) == rows


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_an_error_that_names_the_file(tmp_path, name):
    content, words = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrimformerError, match=words) as error:
        read_rows(tmp_path / name)
    assert name in str(error.value)
