import json

import datasets
import pytest

from trimformer.data.files import read_rows
from trimformer.data.rows import Selection, numbered
from trimformer.data.splits import (
    find_splits,
    load_hub,
    read_evaluation_rows,
    read_evaluation_sets,
    read_splits,
    used_splits,
)
from trimformer.errors import TrimformerError

ROWS = [{"text": "good film", "label": "1"}, {"text": "it's, well:\n“bad”", "label": "0"}]


def write(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [separator.join(f'"{value}"' for value in row) for row in [list(rows[0]), *(r.values() for r in rows)]]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    assert list(read_rows(write(tmp_path / f"data.{suffix}"))) == ROWS
    assert read_splits(tmp_path / f"data.{suffix}") == {"all": ROWS}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_byte_order_mark_and_windows_line_ends_are_ignored(tmp_path, suffix):
    path = write(tmp_path / f"data.{suffix}", [{"text": "a", "label": "b"}] * 2)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_rows(path) == [{"text": "a", "label": "b"}] * 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_json_lines_may_hold_other_unicode_line_ends(tmp_path, separator):
    rows = [{"text": f"one{separator}two"}, {"text": "three"}]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=separator < "\x80") for row in rows), encoding="utf-8")
    assert read_rows(path) == rows


def test_a_folder_gives_its_files_as_splits(tmp_path):
    write(tmp_path / "train.jsonl")
    write(tmp_path / "validation.csv")
    (tmp_path / "README.md").write_text("not data")
    assert read_splits(tmp_path) == {"train": ROWS, "validation": ROWS}


def test_shards_are_one_split(tmp_path):
    for i in range(2):
        write(tmp_path / f"train-0000{i}-of-00002.jsonl")
    write(tmp_path / "validation-00000-of-00001.csv")
    assert read_splits(tmp_path) == {"train": ROWS + ROWS, "validation": ROWS}


def test_a_saved_dataset_is_read(tmp_path):
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "more")
    assert list(read_splits(tmp_path / "one")["all"]) == ROWS
    assert {name: list(rows) for name, rows in read_splits(tmp_path / "more").items()} == {"train": ROWS, "test": ROWS}


BROKEN = {
    "empty.jsonl": (b"", "is empty"),
    "blank.jsonl": (b"\n \n", "is empty"),
    "list.json": (b"[]", "is empty"),
    "header.csv": (b"text,label\n", "is empty"),
    "latin.jsonl": ('{"text": "caf\xe9"}'.encode("latin-1"), "not UTF-8"),
    "latin.csv": (b"text\ncaf\xe9", "not UTF-8"),
    "broken.jsonl": (b'{"a": 1}\n\n{"a": \n', "line 3"),
    "broken.json": (b'[{"a": 1}, ', "cannot be read"),
    "scalars.jsonl": (b'{"a": 1}\n7', "row 2"),
    "scalars.json": (b"[1, 2]", "row 1"),
    "long.csv": (b"text,label\na,b\na,b,c\n", "row 2"),
    "short.tsv": (b"text\tlabel\na\n", "row 1"),
    "quote.csv": (b'text,label\n"a,b\n', "cannot be read"),
    "broken.parquet": (b"PAR1 no", "cannot be read"),
    "data.xlsx": (b"x", "unknown type"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_an_error_that_names_the_file(tmp_path, name):
    content, words = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TrimformerError, match=words) as error:
        read_rows(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere", "empty"])
def test_missing_files_and_empty_folders_are_errors_that_name_the_path(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrimformerError, match=name):
        read_splits(tmp_path / name)


def test_an_unnamed_index_column_is_accepted(tmp_path):
    path = tmp_path / "pandas.csv"
    path.write_text(",text,label\n0,good,1\n1,bad,0\n")
    assert [row["text"] for row in read_rows(path)] == ["good", "bad"]


@pytest.mark.parametrize("name", ["validation", "dev", "test"])
def test_existing_splits_are_used_unchanged(name):
    assert find_splits({"train": ROWS, name: ROWS[:1]}) == (ROWS, {name: ROWS[:1]})


def test_validation_is_preferred_to_test_and_may_have_several_parts():
    parts = {"validation_matched": ROWS[1:], "validation_mismatched": ROWS[:1]}
    assert find_splits({"test": ROWS[:1], **parts, "train": ROWS}) == (ROWS, parts)


@pytest.mark.parametrize("split", ["all", "train"])
@pytest.mark.parametrize("count", [4, 7, 50])
def test_held_out_rows_are_disjoint_complete_and_repeat_with_the_seed(split, count):
    rows = [{"text": str(i)} for i in range(count)]
    train, validation = find_splits({split: rows}, seed=3)
    (held_out,) = validation.values()
    assert len(held_out) == max(1, round(count / 5))
    assert sorted(int(row["text"]) for row in [*train, *held_out]) == list(range(count))
    assert find_splits({split: rows}, seed=3) == (train, validation)
    if count == 50:
        assert find_splits({split: rows}, seed=4) != (train, validation)


def test_all_rows_are_for_evaluation_if_none_are_needed_for_training():
    assert find_splits({"all": ROWS}, need_train=False)[1] == {"all": ROWS}
    assert find_splits({"test": ROWS}, need_train=False)[1] == {"test": ROWS}


def test_all_validation_sets_of_a_folder_are_evaluated(tmp_path, caplog):
    for name in ("validation_a", "validation_b"):
        write(tmp_path / f"{name}.jsonl", [{"text": name}])
    sets = read_evaluation_sets(tmp_path)
    assert {name: [row["text"] for row in rows] for name, rows in sets.items()} == {name: [name] for name in sets}
    assert list(sets) == ["validation_a", "validation_b"]
    assert not caplog.text
    assert [row["text"] for row in read_evaluation_rows(tmp_path)] == ["validation_a"]
    assert "only 'validation_a'" in caplog.text
    assert "not 'validation_b'" in caplog.text


@pytest.mark.parametrize("splits", [{"test": ROWS, "dev": ROWS}, {"train": ROWS[:1], "dev": ROWS}, {"all": ROWS}])
def test_too_few_training_rows_are_an_error_that_names_the_splits(splits):
    with pytest.raises(TrimformerError, match=rf"(no 'train' split|too few rows).*\b{min(splits)} \("):
        find_splits(splits)


@pytest.mark.parametrize("error", [ConnectionError("no network\nat all"), OSError()])
def test_an_unreachable_hub_is_one_sentence_with_advice(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    for source in (("nyu-mll/glue", "sst2"), None):
        with pytest.raises(TrimformerError, match="--data") as raised:
            load_hub("sst2", source)
        assert "\n" not in str(raised.value)


def test_a_nested_selection_keeps_the_row_numbers_of_the_data():
    rows = [{"text": str(i)} for i in range(10)]
    chosen = Selection(Selection(rows, [9, 4, 2]), [2, 0])
    assert [(number, row["text"]) for number, row in numbered(chosen)] == [(3, "2"), (10, "9")]
    assert [number for number, _ in numbered(rows)] == list(range(1, 11))


@pytest.mark.parametrize("present", [["1-of-00002"], ["0-of-00002"], ["0-of-00003", "2-of-00003"]])
def test_a_missing_shard_is_refused(tmp_path, present):
    for name in present:
        write(tmp_path / f"train-0000{name}.jsonl")
    with pytest.raises(TrimformerError, match=r"lacks shard [01] of 'train' \(1 missing"):
        read_splits(tmp_path)


def test_shards_of_two_sets_are_refused(tmp_path):
    for name in ("0-of-00001", "0-of-00002", "1-of-00002"):
        write(tmp_path / f"train-0000{name}.jsonl")
    with pytest.raises(TrimformerError, match="mixes shards of 'train' in 1 and 2 parts"):
        read_splits(tmp_path)


def spoil_state(folder):
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_data_files": state["_data_files"][:1]}))


def cut_in_half(folder):
    path = folder / "data-00000-of-00002.arrow"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILED = {
    "a shard is gone": (lambda folder: (folder / "data-00001-of-00002.arrow").unlink(), "00001-of-00002.*is missing"),
    "a shard is cut": (cut_in_half, "data-00000-of-00002.arrow' is cut short"),
    "a shard is empty": (lambda folder: (folder / "data-00001-of-00002.arrow").write_bytes(b""), "cut short"),
    "a shard is not listed": (spoil_state, "lacks shard 1"),
    "the list is gone": (lambda folder: (folder / "state.json").write_text("{}"), "_data_files"),
}


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize("is_split", [False, True])
def test_a_saved_dataset_that_lacks_rows_is_refused(tmp_path, name, is_split):
    spoil, words = SPOILED[name]
    dataset = datasets.Dataset.from_list(ROWS * 5)
    folder = tmp_path / "saved"
    if is_split:
        datasets.DatasetDict({"train": dataset}).save_to_disk(folder, num_shards={"train": 2})
    else:
        dataset.save_to_disk(folder, num_shards=2)
    assert sum(map(len, read_splits(folder).values())) == 10
    spoil(folder / "train" if is_split else folder)
    with pytest.raises(TrimformerError, match=rf"saved' cannot be read.*{words}"):
        read_splits(folder)


def test_a_file_whose_name_only_begins_like_a_split_is_none(tmp_path):
    for name in ("train.csv", "testimonials.csv", "valuable.jsonl", "developers.jsonl"):
        write(tmp_path / name)
    assert read_splits(tmp_path).keys() == {"train"}
    assert find_splits({"train": ROWS * 2, "testimonials": ROWS})[1].keys() == {"validation"}


@pytest.mark.parametrize("name", ["validation_matched", "test-00000-of-00001", "evaluation", "testing", "val.a"])
def test_parts_and_other_names_of_a_split_are_found(tmp_path, name):
    for stem in ("train", name):
        write(tmp_path / f"{stem}.csv")
    _, sets = find_splits(read_splits(tmp_path))
    assert list(sets) == [name.partition("-")[0]]


def test_only_the_splits_that_are_chosen_are_used():
    splits = {"test": ROWS, "train": ROWS, "dev_b": ROWS, "dev": ROWS, "more": ROWS}
    assert list(used_splits(splits)) == ["train", "dev", "dev_b"]
    assert list(used_splits(splits, need_train=False)) == ["dev", "dev_b"]
    assert list(used_splits({"all": ROWS, "more": ROWS}, need_train=False)) == ["all"]
    assert list(used_splits({"more": ROWS, "test": ROWS})) == ["more", "test"]
    with pytest.raises(TrimformerError, match=r"no 'train' split, only more \(2\), test \(2\)"):
        find_splits(used_splits({"more": ROWS, "test": ROWS}))


def test_what_is_left_out_of_a_folder_of_texts_is_said(tmp_path, caplog):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("A good film.\nA bad film.\n", encoding="utf-8")
    assert len(read_splits(tmp_path)["all"]) == 4
    assert "are read" not in caplog.text
    (tmp_path / "more").mkdir()
    for name in ("more/c.txt", "rows.jsonl", ".hidden"):
        (tmp_path / name).write_text('{"text": "A film."}\n', encoding="utf-8")
    assert len(read_splits(tmp_path)["all"]) == 4
    assert "only its own text files are read; not more/, rows.jsonl" in caplog.text
