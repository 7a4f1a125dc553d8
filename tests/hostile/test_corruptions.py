"""Files spoiled at random: a command succeeds or says one sentence, whatever bytes it finds."""

import json
import random
import re
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import run
from tests.conftest import make_table
from tests.hostile.world import FUZZ, snapshot, world
from trimformer.checkpoints.save_load import load_model
from trimformer.cli.main import main
from trimformer.cli.record import parse_command, read_record
from trimformer.cli.reproduce import figure_differences
from trimformer.costs.lookup_tables import read_table, write_table
from trimformer.errors import TrimformerError

QUICK = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
# The same examples in every run, and new ones in `make fuzz`.
THOROUGH = settings(
    max_examples=200 * FUZZ, deadline=None, derandomize=FUZZ == 1, suppress_health_check=list(HealthCheck)
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, "", "../x", "\ud800", "trimformer", "bert", "relu", "1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its data and its table, which each example spoils and puts right again."""
    made = world(tmp_path_factory.mktemp("made"), "single_label", tmp_path_factory.mktemp("world"))
    write_table(make_table(load_model(made / "model")), made / "lut")
    return made


def check(folder, capsys, file, content, words="evaluate model --data rows.jsonl"):
    """Runs a command on a spoiled file."""
    path = folder / file
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        before = snapshot(folder)
        capsys.readouterr()
        code = run(
            main, *(str(folder / word) if word in ("model", "rows.jsonl", file) else word for word in words.split())
        )
        told = capsys.readouterr().err
        lines = [line for line in told.splitlines() if line.strip() and not re.match(r"\d\d:\d\d:\d\d ", line)]
        assert code in (0, 2), (code, told)
        assert len(lines) == (1 if code else 0), told
        assert snapshot(folder) == before
    finally:
        path.write_bytes(good)


def spoiled_bytes(good: bytes, seed: int) -> bytes:
    """Some bytes changed, cut out, or put in."""
    random_ = random.Random(seed)
    content = bytearray(good)
    for _ in range(random_.choice([1, 1, 2, 5])):
        place = random_.randrange(len(content) + 1)
        way = random_.randrange(4)
        if way == 0 and place < len(content):
            content[place] = random_.randrange(256)
        elif way == 1:
            del content[place : place + random_.choice([1, 7, 1000])]
        elif way == 2:
            content[place:place] = random_.choice(
                [b"\x00", b"\xff\xfe", b'"', b"{", b"[", b"\n", b",", b"9" * 400, b"NaN"]
            )
        else:
            del content[place:]
    return bytes(content)


def edited(good: bytes, seed: int, value) -> bytes:
    """A JSON object with one entry set, anywhere in it."""
    random_ = random.Random(seed)
    content = json.loads(good)
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = random_.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and random_.random() < 0.7:
            place = place[key]
            continue
        place[key] = value
        return json.dumps(content).encode()


def config_entry(folder, capsys, seed, value):
    good = (folder / "model" / "config.json").read_bytes()
    check(folder, capsys, "model/config.json", edited(good, seed, value))


def config_bytes(folder, capsys, seed, value):
    good = (folder / "model" / "config.json").read_bytes()
    check(folder, capsys, "model/config.json", spoiled_bytes(good, seed))


def tokenizer_entry(folder, capsys, seed, value):
    good = (folder / "model" / "tokenizer_config.json").read_bytes()
    check(folder, capsys, "model/tokenizer_config.json", edited(good, seed, value))


def weights_header(folder, capsys, seed, value):
    good = (folder / "model" / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", good[:8])
    header = edited(good[8 : 8 + size], seed, value)
    check(folder, capsys, "model/model.safetensors", struct.pack("<Q", len(header)) + header + good[8 + size :])


def weights_bytes(folder, capsys, seed, value):
    good = (folder / "model" / "model.safetensors").read_bytes()
    check(folder, capsys, "model/model.safetensors", spoiled_bytes(good, seed))


def row_entry(folder, capsys, seed, value):
    good = (folder / "rows.jsonl").read_bytes().splitlines()
    random_ = random.Random(seed)
    good[random_.randrange(len(good))] = edited(good[0], seed, value)
    check(folder, capsys, "rows.jsonl", b"\n".join(good))


def row_bytes(folder, capsys, seed, value):
    check(folder, capsys, "rows.jsonl", spoiled_bytes((folder / "rows.jsonl").read_bytes(), seed))


def csv_bytes(folder, capsys, seed, value):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    good = "sentence,label\n" + "".join(f'"{row["sentence"]}",{row["label"]}\n' for row in rows)
    (folder / "x.csv").write_text("")
    check(folder, capsys, "x.csv", spoiled_bytes(good.encode(), seed), "evaluate model --data x.csv")
    (folder / "x.csv").unlink()


def parquet_bytes(folder, capsys, seed, value):
    import pyarrow as pa
    import pyarrow.parquet

    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    path = folder / "x.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    check(folder, capsys, "x.parquet", spoiled_bytes(path.read_bytes(), seed), "evaluate model --data x.parquet")
    path.unlink()


def table(folder, capsys, seed, value):
    file = folder / "lut" / random.Random(seed).choice(["mha_lut.pt", "ffn_lut.pt", "lut.json", "lut.json"])
    good = file.read_bytes()
    entry = file.suffix == ".json" and seed % 2
    file.write_bytes(edited(good, seed, value) if entry else spoiled_bytes(good, seed))
    try:
        read = read_table(folder / "lut" / "mha_lut.pt", folder / "lut" / "ffn_lut.pt")
        assert all((levels >= 0).all() for levels in read.levels.values())
    except TrimformerError:
        pass  # one sentence
    finally:
        file.write_bytes(good)


def record(folder, capsys, seed, value):
    """A `results.json`, of which the command is read but not run."""
    words = "trimformer prune model --data rows.jsonl --constraint 0.5 --seed 3 --output out".split()
    figures = {"machine": {"versions": {"torch": "2"}}, "scores": None, "sizes": {"dense": {"macs": 1.5}}}
    good = json.dumps({"command": words, **figures}).encode()
    (folder / "results.json").write_bytes(edited(good, seed, value) if seed % 2 else spoiled_bytes(good, seed))
    try:
        found = read_record(folder)
        figure_differences(found.figures, found.machine)
        assert parse_command(found, "elsewhere").output == "elsewhere"
    except TrimformerError:
        pass  # one sentence
    finally:
        (folder / "results.json").unlink()


SPOILS = {
    spoil.__name__: spoil
    for spoil in (
        config_entry, config_bytes, tokenizer_entry, weights_header, weights_bytes, row_entry, row_bytes, csv_bytes,
        parquet_bytes, table, record,
    )
}  # fmt: skip


def try_spoiled(how_often, name, folder, capsys):
    @how_often
    @given(seed=st.integers(0, 2**32), value=VALUES)
    def examples(seed, value):
        SPOILS[name](folder, capsys, seed, value)

    examples()


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoiled_file_is_read_or_refused(name, folder, capsys):
    try_spoiled(QUICK, name, folder, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPOILS)
def test_many_more_spoiled_files_are_read_or_refused(name, folder, capsys):
    try_spoiled(THOROUGH, name, folder, capsys)
