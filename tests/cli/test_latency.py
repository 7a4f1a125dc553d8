"""`trimformer lut`, `trimformer bench`, `trimformer prune --metric latency`, and the paper's `generate_lut.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import trimformer
from tests.commands import error_line, prune, run, save_model, tree
from tests.conftest import make_table
from tests.data.media_fixtures import image_model, image_processor, save_image
from trimformer import LatencyOptions, TrimformerError
from trimformer.checkpoints.save_load import load
from trimformer.cli.main import main
from trimformer.cli.prune import MISSED
from trimformer.costs.lookup_tables import write_table
from trimformer.evaluation.latency_target import LatencyTarget
from trimformer.models import find_sublayers

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def kept(monkeypatch):
    """Every promise is kept: what a tiny model takes is noise."""
    monkeypatch.setattr(LatencyTarget, "__call__", lambda self, student: None)
    monkeypatch.setattr(LatencyTarget, "misses", lambda *_: False)


@pytest.fixture
def dense(model_dir):
    return AutoModelForSequenceClassification.from_pretrained(model_dir)


@pytest.fixture
def lut(dense, tmp_path):
    """The files of a table that was made by hand, of this model and machine."""
    write_table(make_table(dense), tmp_path / "in" / "lut")
    return tmp_path / "in" / "lut"


def results(out):
    return json.loads((out / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_lut_writes_tables_that_are_accepted_for_the_model(model_dir, data, tmp_path, capsys, kept):
    words = ["--bs", 2, "--seq-len", 8, "--seconds", 0.3, "--output", tmp_path / "lut"]
    assert run(main, "lut", model_dir, *words) == 0
    assert tree(tmp_path / "lut") == {"mha_lut.pt", "ffn_lut.pt", "lut.json"}
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("CPU", "eager", "float32", "2 x 8", "attention: ", "ffn: ", "written to"))
    out = tmp_path / "out"
    assert prune(model_dir, data, out, "--metric", "latency", "--lut", str(tmp_path / "lut"), "--constraint", "1") == 0
    latency = results(out)["latency"]
    assert (latency["batch_size"], latency["seq_len"], latency["backend"]) == (2, 8, "eager")


def test_a_table_of_images_has_their_positions(tmp_path, capsys):
    image_model().save_pretrained(tmp_path / "model")
    words = ["lut", tmp_path / "model", "--bs", 2, "--seconds", 0.1, "--seq-len", 7, "--output", tmp_path / "lut"]
    assert run(main, *words) == 0
    assert "reads images or sounds; it has no effect" in capsys.readouterr().err
    assert (
        json.loads((tmp_path / "lut" / "lut.json").read_text())["setting"]["seq_len"] == 5
    )  # four patches and the class token


def test_texts_are_timed_at_the_length_that_is_given(model_dir, tmp_path, capsys):
    assert run(main, "lut", model_dir, "--bs", 2, "--output", tmp_path / "lut") == 2
    assert "--seq-len is missing" in error_line(capsys.readouterr().err)


@pytest.mark.slow
def test_generate_lut_takes_the_papers_flags(model_dir, tmp_path):
    words = ["--model_name", model_dir, "--bs", "2", "--seq_len", "8", "--output_dir", "./luts/tiny-2-8"]
    command = [sys.executable, ROOT / "generate_lut.py", *words, "--seconds", "0.3", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--dtype", "float32"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, units in (("mha_lut.pt", 4), ("ffn_lut.pt", 40)):
        values = torch.load(tmp_path / "luts" / "tiny-2-8" / name, weights_only=True)
        assert values.shape == (units,)
        assert (values > 0).all()


@pytest.mark.parametrize("method", ["obs", "kwon2022", "magnitude"])
def test_prune_keeps_to_the_latency_of_a_table(model_dir, data, tmp_path, lut, kept, dense, capsys, method):
    words = ["--metric", "latency", "--lut", str(lut), "--method", method]
    words += ["--neuron-multiple", "4"] if method == "obs" else []
    assert prune(model_dir, data, tmp_path / "out", *words) == 0
    costs = make_table(dense).costs(dense)
    pruned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    estimate = costs.of(s.num_units for s in find_sublayers(pruned))
    assert 0.3 * costs.dense < estimate <= 0.5 * costs.dense
    budget, latency = (results(tmp_path / "out")[name] for name in ("budget", "latency"))
    assert budget["kept"] == pytest.approx(estimate / costs.dense)
    assert budget["estimated_ms"] == pytest.approx(budget["kept"] * latency["dense_ms"]["median"])
    assert not budget["corrected"]
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("latency (ms, 2 x 8)", "allowed", "estimated", "left over"))


def test_prune_keeps_to_milliseconds(model_dir, data, tmp_path, lut, kept, dense):
    words = ["--output", tmp_path / "out", "--lut", lut, "--latency-ms", 12]
    assert run(main, "prune", model_dir, "--data", data, *words) == 0
    budget = results(tmp_path / "out")["budget"]
    assert budget["asked_ms"] == 12
    assert budget["estimated_ms"] == pytest.approx(budget["kept"] * budget["reference_ms"])
    assert budget["estimated_ms"] <= 12


def test_a_latency_that_is_missed_is_written_and_has_its_own_exit_code(
    model_dir, data, tmp_path, lut, kept, monkeypatch, capsys
):
    monkeypatch.setattr(LatencyTarget, "misses", lambda *_: True)
    words = ["--output", tmp_path / "out", "--lut", lut, "--latency-ms", 12]
    assert run(main, "prune", model_dir, "--data", data, *words) == MISSED == 3
    assert results(tmp_path / "out")["budget"]["missed"]
    assert "is missed" in capsys.readouterr().err
    for file in ("README.md", "report.html"):
        assert "the latency budget is missed" in (tmp_path / "out" / file).read_text()


def test_prune_measures_a_table_of_the_shape_asked_for_where_none_is_given(model_dir, data, tmp_path, kept):
    words = ["--metric", "latency", "--constraint", "1", "--bs", "1", "--seq-len", "4"]
    assert prune(model_dir, data, tmp_path / "out", *words) == 0
    found = results(tmp_path / "out")
    assert (found["latency"]["batch_size"], found["latency"]["seq_len"]) == (1, 4)
    assert "table" in found["cost"]["seconds"]


def test_the_shape_of_the_report_can_be_chosen_for_every_metric(model_dir, data, tmp_path):
    assert prune(model_dir, data, tmp_path / "out", "--bs", "3", "--seq-len", "7") == 0
    latency = results(tmp_path / "out")["latency"]
    assert (latency["batch_size"], latency["seq_len"]) == (3, 7)
    assert "asked_ms" not in latency


def change_setting(**changes):
    def change(lut):
        content = json.loads((lut / "lut.json").read_text())
        content["setting"] |= changes
        (lut / "lut.json").write_text(json.dumps(content))

    return change


def save(name, value):
    return lambda lut: torch.save(value, lut / name)


BAD_LUTS = {
    "missing": (lambda lut: (lut / "ffn_lut.pt").unlink(), ["ffn_lut.pt", "does not exist", "trimformer lut"]),
    "short": (save("mha_lut.pt", torch.ones(3)), ["mha_lut.pt", "3 entries", "4 units"]),
    "negative": (save("mha_lut.pt", -torch.ones(4)), ["mha_lut.pt", "not positive"]),
    "NaN": (save("ffn_lut.pt", torch.full((40,), torch.nan)), ["ffn_lut.pt", "not positive"]),
    "matrix": (save("ffn_lut.pt", torch.ones(3, 40)), ["ffn_lut.pt", "(3, 40)"]),
    "pickle": (save("ffn_lut.pt", ROOT), ["ffn_lut.pt", "not a plain tensor"]),
    "another machine": (change_setting(device="Abacus 9000"), ["device 'Abacus 9000'", "--any-lut"]),
    "another dtype": (change_setting(dtype="float16"), ["dtype 'float16'", "'float32'", "--any-lut"]),
    "other layers": (change_setting(layers=12), ["layers '12'", "'3'", "--any-lut"]),
    "other shapes": (change_setting(inputs={"input_ids": [8, 16]}), ["'input_ids' of shape [8, 16]", "--any-lut"]),
    "broken": (lambda lut: (lut / "lut.json").write_text("{"), ["lut.json"]),
}


@pytest.mark.parametrize("name", BAD_LUTS)
def test_a_bad_table_is_one_sentence_and_nothing_is_written(model_dir, data, tmp_path, lut, capsys, name):
    change, words = BAD_LUTS[name]
    change(lut)
    before = tree(tmp_path)
    capsys.readouterr()
    assert prune(model_dir, data, tmp_path / "out", "--metric", "latency", "--lut", str(lut)) == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


def test_a_table_from_another_machine_is_used_where_it_is_wanted(model_dir, data, tmp_path, lut, kept):
    change_setting(device="Abacus 9000")(lut)
    words = ["--metric", "latency", "--lut", str(lut), "--any-lut"]
    assert prune(model_dir, data, tmp_path / "out", *words) == 0


def test_a_table_of_another_head_tells_shares_but_no_milliseconds(model_dir, data, tmp_path, lut, capsys):
    change_setting(**{"class": "BertForMaskedLM"})(lut)
    words = ["--metric", "latency", "--lut", str(lut)]
    in_ms = [*words, "--data", data, "--output", tmp_path / "ms", "--latency-ms", "12"]
    assert run(main, "prune", model_dir, *in_ms) == 2
    assert "measured for 'BertForMaskedLM'" in error_line(capsys.readouterr().err)
    assert prune(model_dir, data, tmp_path / "share", *words) in (0, 3)
    assert "measured latencies correct it" in capsys.readouterr().err


BAD_FLAGS = {
    "ms and a constraint": ("--constraint 0.5 --latency-ms 12 --metric latency", ["either", "ms"]),
    "no budget": ("--metric latency", ["one of a constraint", "ms"]),
    "ms of MACs": ("--metric mac --latency-ms 12", ["12.0 ms", "'latency'"]),
    "negative": ("--latency-ms -1 --metric latency", ["latency_ms is -1.0", "positive"]),
    "NaN": ("--latency-ms nan --metric latency", ["latency_ms is nan", "positive"]),
    "more than dense": ("--latency-ms 1000 --metric latency --lut LUT", ["20.6 ms already"]),
    "unreachable": ("--latency-ms 0.5 --metric latency --lut LUT", ["smallest reachable", "ms)"]),
    "unreachable share": ("--constraint 0.01 --metric latency --lut LUT", ["smallest reachable", "ms)"]),
    "kprune": ("--constraint 0.5 --metric latency --method kprune", ["'kprune'", "'mac'"]),
    "no such tables": ("--constraint 0.5 --metric latency --lut nowhere", ["nowhere", "does not exist"]),
    "too long": ("--constraint 0.5 --metric latency --seq-len 65", ["length 65", "64 tokens"]),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_a_bad_flag_of_prune_is_one_sentence_and_nothing_is_written(model_dir, data, tmp_path, lut, capsys, name):
    flags, words = BAD_FLAGS[name]
    before = tree(tmp_path)
    capsys.readouterr()
    flags = flags.replace("LUT", str(lut)).split()
    assert run(main, "prune", model_dir, "--data", data, "--output", tmp_path / "out", *flags) == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


REFUSED = ["--bs 0", "--bs -1", "--seq-len 0", "--backend tensorrt", "--latency-ms x", "--metric energy"]


@pytest.mark.parametrize("flags", REFUSED)
def test_what_the_parser_refuses_exits_2_too(model_dir, data, tmp_path, capsys, flags):
    assert prune(model_dir, data, tmp_path / "out", *flags.split()) == 2
    assert flags.split()[0] in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


BAD_LUT_FLAGS = {
    "--bs 0": ["--bs", "'0'"],
    "--seq-len -8": ["--seq-len"],
    "--seq-len 65": ["length 65", "64 tokens"],
    "--seconds 0": ["--seconds 0.0"],
    "--seconds nan": ["--seconds nan"],
    "--device tpu9": ["'tpu9'"],
    "--backend tensorrt": ["--backend", "tensorrt"],
    "--dtype int8": ["--dtype", "int8"],
    "--backend onnx --dtype bfloat16": ["float32 or int8", "--dtype bfloat16"],
    "--output IN": ["not empty"],
}


@pytest.mark.parametrize("flags", BAD_LUT_FLAGS)
def test_lut_refuses_bad_flags_and_writes_nothing(model_dir, tmp_path, capsys, flags):
    before = tree(tmp_path)
    capsys.readouterr()
    words = ["--bs", 2, "--seq-len", 8, "--seconds", 0.3, "--output", tmp_path / "lut"]
    assert run(main, "lut", model_dir, *words, *flags.replace("IN", str(model_dir)).split()) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(word in message for word in ["error: ", *BAD_LUT_FLAGS[flags]]), message
    assert tree(tmp_path) == before


def bench(*words):
    return run(main, "bench", *words, "--seconds", 0.05)


def test_bench_prints_a_line_for_each_shape_and_model_and_writes_json(model_dir, data, tmp_path, capsys):
    assert prune(model_dir, data, tmp_path / "pruned") == 0
    models = [str(model_dir), str(tmp_path / "pruned")]
    capsys.readouterr()
    assert bench(*models, "--bs", "1,3", "--seq-len", "4,8", "--output", tmp_path / "bench.json") == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if " x " in line]
    shapes = [(batch, length) for length in (4, 8) for batch in (1, 3)]
    assert [line.split()[:4] for line in lines] == [[str(b), "x", str(n), m] for b, n in shapes for m in models]
    found = json.loads((tmp_path / "bench.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    records = found["records"]
    assert [(r["batch_size"], r["seq_len"], r["model"]) for r in records] == [(*s, m) for s in shapes for m in models]
    assert all(0 < r["low"] <= r["ms"] <= r["high"] for r in records)
    assert all(r["samples_per_second"] == pytest.approx(1e3 * r["batch_size"] / r["ms"]) for r in records)
    assert all(r["speedup"] == 1.0 for r in records[::2])
    assert "CPU" in found["device"]
    assert {"torch", "python"} <= found.keys()


def test_images_have_one_length_whatever_is_asked_for_texts(tmp_path, capsys):
    trimformer.save(image_model(), image_processor(), tmp_path / "vit")
    assert bench(tmp_path / "vit", "--bs", "1,2", "--output", tmp_path / "bench.json") == 0
    records = json.loads((tmp_path / "bench.json").read_text())["records"]
    assert [(record["batch_size"], record["seq_len"]) for record in records] == [(1, None), (2, None)]
    capsys.readouterr()
    assert bench(tmp_path / "vit", "--seq-len", "512") == 2
    assert "--seq-len is the number of tokens" in error_line(capsys.readouterr().err)
    rows = [{"image": str(save_image(tmp_path / f"{i}.png", i))} for i in range(12)]
    result = trimformer.prune(*load(tmp_path / "vit"), rows, 0.6, batch_size=4)
    assert result.latency.seq_len == result.samples.seq_len
    with pytest.raises(TrimformerError, match="seq_len is the number of tokens"):
        trimformer.prune(*load(tmp_path / "vit"), rows, 0.6, batch_size=4, latency=LatencyOptions(seq_len=512))


BAD_BENCH = {
    "--bs 1,0": ["--bs", "'0'"],
    "--bs 1,": ["--bs", "''"],
    "--seq-len 4,65": ["length 65", "64 tokens"],
    "--seq-len x": ["--seq-len", "'x'"],
    "--output no/such/file.json": ["no/such/file.json"],
    "--output .": ["name a file"],
    "--device tpu9": ["'tpu9'"],
    "--backend tensorrt": ["--backend"],
    "--seconds -1": ["--seconds -1.0"],
    "--backend onnx-int8 --dtype float16": ["float32 or int8", "--dtype float16"],
}


@pytest.mark.parametrize("flags", BAD_BENCH)
def test_bench_refuses_bad_flags_and_writes_nothing(model_dir, tmp_path, capsys, flags):
    before = tree(tmp_path)
    capsys.readouterr()
    assert run(main, "bench", model_dir, "--bs", "1", "--seq-len", "4", "--seconds", 0.05, *flags.split()) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(word in message for word in ["error: ", *BAD_BENCH[flags]]), message
    assert tree(tmp_path) == before


def test_bench_names_the_model_that_cannot_be_had(model_dir, tmp_path, capsys, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr("trimformer.checkpoints.save_load.snapshot_download", offline)
    (tmp_path / "empty").mkdir()
    for name, words in ((tmp_path / "empty", ["empty"]), ("no/such-model", ["no/such-model", "hub"])):
        capsys.readouterr()
        assert bench(name, model_dir) == 2
        message = error_line(capsys.readouterr().err)
        assert all(word in message for word in words), message


def test_a_model_of_the_hub_is_timed_with_its_head_and_its_pruned_widths(model_dir, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert prune(model_dir, data, out) == 0
    monkeypatch.setattr("trimformer.checkpoints.save_load.snapshot_download", lambda *_, **__: str(out))
    timed = []
    monkeypatch.setattr("trimformer.cli.latency.prepare", lambda model, *_: timed.append(model) or (lambda: None))
    assert bench("user/small", "--bs", "1", "--seq-len", "8") == 0
    assert type(timed[0]) is type(trimformer.load(out)[0])
    assert [s.num_units for s in find_sublayers(timed[0])] == [s["units"] for s in results(out)["sublayers"]]


def test_models_of_other_families_and_dtypes_can_be_benched(model_dir, tmp_path, capsys):
    other = save_model(tmp_path / "other", "tokens", "DistilBert")
    assert bench(model_dir, other, "--bs", "1", "--seq-len", "4", "--dtype", "bfloat16") == 0
