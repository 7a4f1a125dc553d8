"""Dense and pruned, in float32 and eight bits, in ONNX Runtime."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import trimformer
from tests.commands import error_line, prune, run, tree
from tests.conftest import make_model
from tests.test_kinds import KINDS
from trimformer import LatencyOptions
from trimformer.cli import exported_files
from trimformer.cli.main import main
from trimformer.data.rows import as_rows
from trimformer.errors import TrimformerError
from trimformer.evaluation.onnx_files import compare_onnx_files, examples, feeds
from trimformer.options.data import DataOptions
from trimformer.session.inputs import Inputs
from trimformer.session.task import resolve_task

NAMES = ["dense", "dense + int8", "pruned", "pruned + int8"]


@pytest.mark.slow
def test_pruning_and_eight_bits_are_compared_in_one_go(model_dir, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert prune(model_dir, data, out, "--neuron-multiple", "4", "--export", "onnx-int8") == 0
    results = json.loads((out / "results.json").read_text())
    assert results["cost"]["seconds"]["export"] > 0  # part of the seconds in all
    served = {record["name"]: record for record in results["serving"]}
    assert list(served) == NAMES
    assert served["dense"]["divergence"] == 0
    assert served["pruned"]["divergence"] == pytest.approx(results["scores"]["divergence"], rel=1e-3, abs=1e-6)
    assert served["pruned"]["scores"]["accuracy"] == results["scores"]["pruned"]["accuracy"]
    assert served["pruned + int8"]["bytes"] == (out / "onnx" / "model_quantized.onnx").stat().st_size
    printed = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert [name for name in printed if name in NAMES] == NAMES


@pytest.mark.slow
def test_the_files_beside_a_pruned_model_give_what_it_gives(model_dir, data, tmp_path):
    assert prune(model_dir, data, tmp_path / "out", "--neuron-multiple", "4", "--export", "onnx") == 0
    assert {"onnx/model.onnx"} == {name for name in tree(tmp_path / "out") if name.startswith("onnx/")}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(["a good film", "dull"], padding=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    [found] = session.run(None, {v.name: inputs[v.name].numpy() for v in session.get_inputs()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(**inputs).logits.numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_latency_is_kept_in_the_runtime_and_the_bits_that_serve(model_dir, data, tmp_path, capsys):
    words = ("--latency-ms", "1000", "--backend", "onnx-int8", "--bs", "2", "--seq-len", "8")
    command = ("prune", model_dir, "--data", data, "--output", tmp_path / "out", "--neuron-multiple", "4", *words)
    assert run(main, *command) == 2  # the dense model is that fast already, by a table of its own runtime
    assert "the dense model takes" in error_line(capsys.readouterr().err)


def test_a_missing_runtime_is_told_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "none").mkdir()
    assert prune(tmp_path / "none", tmp_path / "none", tmp_path / "out", "--export", "onnx") == 2
    assert "pip install 'trimformer[onnx]'" in error_line(capsys.readouterr().err)


def test_examples_are_of_all_lengths_and_no_more_than_needed():
    batches = [{"input_ids": torch.zeros(32, n, dtype=torch.long), "index": torch.arange(32)} for n in range(1, 65)]
    some = examples(batches)
    assert sum(len(batch["index"]) for batch in some) <= 320
    assert {some[0]["input_ids"].shape[1], some[-1]["input_ids"].shape[1]} == {1, 57}


def test_what_cannot_be_made_up_is_named():
    class Session:
        def get_inputs(self):
            return [type("Value", (), {"name": name})() for name in ("input_ids", "bbox")]

    with pytest.raises(TrimformerError, match="'bbox'"):
        feeds(Session(), {"input_ids": make_model().dummy_inputs["input_ids"]})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sounds", "choices"])
def test_files_are_timed_on_inputs_of_the_shape_of_the_data(kind, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, processor, rows = KINDS[kind]()
    timed = []

    def watched(models, scorer, inputs):
        timed.append(inputs)
        return compare_onnx_files(models, scorer, inputs)

    monkeypatch.setattr(exported_files, "compare_onnx_files", watched)
    sets = [as_rows(rows), as_rows(rows)]
    task = resolve_task(None, DataOptions(), model, sets)
    inputs = Inputs(model.eval(), processor, sets[0], {"validation": sets[1]}, task=task)
    files = exported_files.OnnxFiles(inputs, tmp_path / "dense", int8=False, batch_size=2)
    options = {"device": "cpu", "neuron_multiple": 4, "latency": LatencyOptions(2), "task": task}
    result = trimformer.prune(model, processor, rows, 0.6, **options)
    files.add(result, tmp_path / "pruned")
    assert {served.name for served in result.serving} == {"dense", "pruned"}
    if kind == "sounds":  # of the data, and not of one second
        assert timed[0]["input_values"].shape[1] in {len(row["audio"]["array"]) for row in rows}
        assert timed[0]["attention_mask"].dtype == torch.int64
    else:
        assert timed[0]["input_ids"].shape[:2] == (2, 2)
