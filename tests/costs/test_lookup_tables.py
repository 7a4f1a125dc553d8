import functools
import json
import shutil

import numpy as np
import pytest
import torch

from tests.conftest import make_model, make_table, pruned, random_masks
from trimformer.costs.lookup_tables import FILES, METADATA, check_table, describe_setting, read_table, write_table
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers

MODEL = make_model()


def read(folder):
    return read_table(*(folder / name for name in FILES.values()))


@pytest.fixture
def folder(tmp_path):
    """The files of a table of MODEL, measured here."""
    table = make_table(MODEL)
    table.measured = {kind: [[0.0, 0.1, 0.09, 0.11, 12.0], [4.0, 4.1, 4.0, 4.2, 12.0]] for kind in FILES}
    write_table(table, tmp_path / "lut")
    return tmp_path / "lut"


def test_what_is_written_is_read_again(folder):
    table, expected = read(folder), make_table(MODEL)
    assert all(np.array_equal(table.levels[kind], expected.levels[kind]) for kind in FILES)
    assert (table.fixed, table.setting) == (expected.fixed, expected.setting)
    assert table.measured["ffn"] == [[0.0, 0.1, 0.09, 0.11, 12.0], [4.0, 4.1, 4.0, 4.2, 12.0]]


def test_the_files_are_plain_tensors_with_an_entry_for_each_number_of_units(folder):
    assert {path.name for path in folder.iterdir()} == {"mha_lut.pt", "ffn_lut.pt", "lut.json"}
    for name, units, first in (("mha_lut.pt", 4, 1.1), ("ffn_lut.pt", 40, 0.15)):
        values = torch.load(folder / name, weights_only=True)
        assert (type(values), values.dtype, values.shape) == (torch.Tensor, torch.float64, (units,))
        assert float(values[0]) == pytest.approx(first)


def test_the_metadata_is_strict_json_that_says_what_was_measured(folder):
    content = json.loads((folder / METADATA).read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["setting"] == describe_setting(MODEL, 2, 8, "eager")
    assert content["measured"]["attention"][1] == {"units": 4, "ms": 4.1, "low": 4.0, "high": 4.2, "count": 12}


def test_costs_of_the_dense_model_and_of_a_pruned_one():
    table, masks = make_table(MODEL), random_masks(MODEL)
    costs, left = table.costs(MODEL), [int(mask.sum()) for mask in masks]
    assert costs.measured
    assert costs.dense == pytest.approx(2 + 3 * (0.1 + 4) + 3 * (0.1 + 2))
    assert table.costs(pruned(MODEL, masks)).dense == pytest.approx(costs.of(left))


def test_the_directory_must_be_new(folder):
    with pytest.raises(TrimformerError, match="not empty"):
        write_table(make_table(MODEL), folder)


class Custom:
    pass


BAD_VALUES = {
    "zero": (torch.tensor([1.0, 0.0, 2.0, 3.0]), "positive"),
    "negative": (torch.tensor([1.0, -2.0, 2.0, 3.0]), "positive"),
    "NaN": (torch.tensor([1.0, torch.nan, 2.0, 3.0]), "positive"),
    "infinite": (torch.tensor([1.0, torch.inf, 2.0, 3.0]), "positive"),
    "two dimensions": (torch.ones(4, 1), r"\(4, 1\)"),
    "no dimension": (torch.tensor(1.0), "shape"),
    "empty": (torch.empty(0), r"\(0,\)"),
    "a class": (Custom(), "not a plain tensor"),
    "a call": (functools.partial(print, "gotcha"), "not a plain tensor"),
    "a dictionary": ({1: 2.0}, "not a plain tensor"),
    "words": (["a", "b"], "not a plain tensor"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
@pytest.mark.parametrize("file", FILES.values())
def test_a_file_that_holds_no_latencies_is_refused_by_name(folder, capsys, file, name):
    content, words = BAD_VALUES[name]
    torch.save(content, folder / file)
    with pytest.raises(TrimformerError, match=words) as error:
        read(folder)
    assert str(folder / file) in str(error.value)
    assert "gotcha" not in capsys.readouterr().out


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PK")])
def test_a_missing_or_broken_file_is_named(folder, change):
    change(folder / "ffn_lut.pt")
    with pytest.raises(TrimformerError, match=r"ffn_lut\.pt"):
        read(folder)


BAD_METADATA = {
    "broken": "{",
    "a list": "[]",
    "no fixed part": '{"dropped_ms": {"attention": 0.1, "ffn": 0.1}, "setting": {}, "measured": {}}',
    "not a number": '{"dropped_ms": {"attention": 0.1, "ffn": 0.1}, "fixed_ms": NaN, "setting": {}, "measured": {}}',
    "negative": '{"dropped_ms": {"attention": -1, "ffn": 0.1}, "fixed_ms": 0, "setting": {}, "measured": {}}',
    "no shape": '{"dropped_ms": {"attention": 0, "ffn": 0}, "fixed_ms": 0, "setting": {"dtype": 1}, "measured": {}}',
    "a word for a number": '{"dropped_ms": {"attention": "x", "ffn": 0.1}, "fixed_ms": 0, "setting": {}}',
}


@pytest.mark.parametrize("name", BAD_METADATA)
def test_broken_metadata_is_named(folder, name):
    (folder / METADATA).write_text(BAD_METADATA[name])
    with pytest.raises(TrimformerError, match=r"lut\.json"):
        read(folder)


@pytest.mark.parametrize("size", [3, 5])
def test_a_list_of_another_length_is_refused_where_nothing_is_known_of_it(tmp_path, size):
    torch.save([1.0] * size, tmp_path / "mha_lut.pt")
    torch.save(torch.ones(40), tmp_path / "ffn_lut.pt")
    with pytest.raises(TrimformerError, match=rf"mha_lut\.pt has {size} entries.*4 units"):
        check_table(read(tmp_path), MODEL)


def test_lists_of_the_right_length_need_no_metadata(tmp_path):
    torch.save([1.0] * 4, tmp_path / "mha_lut.pt")
    torch.save(torch.ones(40, dtype=torch.float16), tmp_path / "ffn_lut.pt")
    table = read(tmp_path)
    check_table(table, MODEL)
    assert table.costs(MODEL).of([4, 0] * 3) == 3.0
    assert (table.fixed, table.setting) == (0.0, {})


def test_files_in_two_folders_have_no_common_metadata(folder, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "ffn_lut.pt", tmp_path / "other")
    assert read_table(folder / "mha_lut.pt", tmp_path / "other" / "ffn_lut.pt").setting == {}


ELSEWHERE = {
    "device": "Abacus 9000 CPU, 3 threads",
    "dtype": "float16",
    "hidden_size": 32,
    "head_size": 8,
    "model_type": "roberta",
    "attention": "eager",
}


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_table_from_elsewhere_is_refused_unless_it_is_wanted(folder, key):
    content = json.loads((folder / METADATA).read_text())
    content["setting"][key] = ELSEWHERE[key]
    (folder / METADATA).write_text(json.dumps(content))
    table = read(folder)
    with pytest.raises(TrimformerError, match=f"{key} '{ELSEWHERE[key]}'.*--any-lut"):
        check_table(table, MODEL)
    check_table(table, MODEL, any_setting=True)


def test_a_table_serves_narrower_models_of_its_kind_and_no_wider_ones(folder):
    table = read(folder)
    check_table(table, pruned(MODEL, random_masks(MODEL)))
    wider = make_model(intermediate_size=48)
    for any_setting in (False, True):
        with pytest.raises(TrimformerError, match=r"ffn_lut\.pt has 40 entries.*48 units"):
            check_table(table, wider, any_setting=any_setting)


def test_the_setting_tells_what_latency_depends_on():
    here = describe_setting(MODEL, 2, 8, "eager")
    assert here == describe_setting(make_model(seed=1), 2, 8, "eager")
    assert here["dtype"] == "float32"
    assert (here["heads"], here["neurons"], here["head_size"]) == (4, 40, 6)
    assert [s.num_units for s in find_sublayers(MODEL)][:2] == [here["heads"], here["neurons"]]
