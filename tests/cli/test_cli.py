import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import trimformer
from tests.commands import (
    PROBLEMS,
    error_line,
    evaluate,
    outputs,
    problem_rows,
    prune,
    run,
    save_model,
    tree,
    write_jsonl,
)
from tests.conftest import make_batch, make_rows, make_tokenizer
from trimformer import METHODS
from trimformer.checkpoints.save_load import read_masks
from trimformer.cli.main import main
from trimformer.costs.cost_tables import linear_costs
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.models.masking import MaskUnits
from trimformer.options.execution import read_size

BATCH = model_inputs(make_batch(labels=None))


def test_the_output_is_a_directory_that_transformers_loads(model_dir, data, tmp_path):
    assert prune(model_dir, data, tmp_path / "out") == 0
    files = {"config.json", "model.safetensors", "tokenizer.json", "head_mask.pt", "neuron_mask.pt", "results.json"}
    assert files | {"log.txt", "report.html"} <= tree(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("a good film", return_tensors="pt")
    assert outputs(model, dict(tokens))[0].shape == (1, 2)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "in").stat().st_mode


def test_the_layout_ffn_keeps_all_heads(model_dir, data, tmp_path):
    words = ("--layout", "ffn", "--neuron-multiple", "8")
    assert prune(model_dir, data, tmp_path / "out", *words, "--constraint", "0.8", "--standalone") == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    units = {kind: [s.num_units for s in find_sublayers(model) if s.kind == kind] for kind in ("attention", "ffn")}
    assert set(units["attention"]) == {4}
    assert all(n % 8 == 0 for n in units["ffn"])
    assert 0 < min(units["ffn"]) < 40
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["sizes"]["pruned"]["macs"] <= 0.8 * results["sizes"]["dense"]["macs"]


def test_a_budget_below_that_of_all_heads_is_refused(model_dir, data, tmp_path, capsys):
    assert prune(model_dir, data, tmp_path / "out", "--layout", "ffn", "--constraint", "0.2") == 2
    assert "leaves no neurons beside all heads; the smallest reachable is" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_results_hold_every_figure_and_are_strict_json(model_dir, data, tmp_path, method):
    assert prune(model_dir, data, tmp_path / "out", "--method", method, "--seed", "7", "--batch-size", "16") == 0
    text = (tmp_path / "out" / "results.json").read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for side in ("dense", "pruned"):
        assert {"accuracy", "f1"} <= set(results["scores"][side])
        assert set(results["sizes"][side]) == {"macs", "parameters", "bytes"}
        assert all(value > 0 for value in results["sizes"][side].values())
        assert results["latency"][f"{side}_ms"]["median"] > 0
    assert results["scores"]["divergence"] >= 0
    assert results["sizes"]["pruned"]["macs"] <= 0.5 * results["sizes"]["dense"]["macs"]
    assert {"data", "update", "evaluate", "timing"} <= set(results["cost"]["seconds"])
    assert {"torch", "transformers", "python", "trimformer"} <= set(results["machine"]["versions"])
    expected = {"method": method, "seed": 7, "constraint": 0.5, "model": str(model_dir), "batch_size": 16}
    assert expected.items() <= results["arguments"].items()
    assert "CPU" in results["machine"]["device"]
    assert len(results["sublayers"]) == 6
    refits = getattr(METHODS[method], "update", "full") in ("scale", "full")
    assert all((s["refit"] is not None) == refits for s in results["sublayers"])
    assert all((s["predicted_loss"] is None) != method.startswith("obs") for s in results["sublayers"])
    assert results["method"] == asdict(METHODS[method])
    assert 0 < results["budget"]["kept"] <= results["budget"]["constraint"] == 0.5
    assert results["machine"]["processes"] == 1
    assert results["cost"]["peak_gb"]["host"] > 0
    assert results["cost"]["seconds_per_pass"] > 0
    cost = results["cost"]["forward_passes"]
    assert cost.pop("total") == pytest.approx(sum(cost.values()))
    stages = {"curves", "search", "shrink", "update"} if method != "kprune" else {"update"}
    assert cost.keys() == stages | ({"calibrate"} if method not in ("kprune", "magnitude", "random") else set())
    assert all(passes > 0 for passes in cost.values())
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (results["heads"], results["neurons"]) == (config["heads"], config["neurons"])


@pytest.mark.parametrize("method", ["kwon2022", "magnitude"])
def test_the_dense_model_under_the_mask_files_is_the_pruned_model(model_dir, data, tmp_path, method):
    assert prune(model_dir, data, tmp_path / "out", "--method", method) == 0
    dense = AutoModelForSequenceClassification.from_pretrained(model_dir)
    for name, shape in (("head_mask.pt", (3, 4)), ("neuron_mask.pt", (3, 40))):
        mask = torch.load(tmp_path / "out" / name, weights_only=True)
        assert (type(mask), mask.dtype, tuple(mask.shape)) == (torch.Tensor, torch.float32, shape)
    with MaskUnits(find_sublayers(dense), read_masks(tmp_path / "out", dense)):
        masked = outputs(dense, BATCH)
    pruned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(outputs(pruned, BATCH), masked, atol=1e-5, rtol=1e-5)


def test_the_table_is_printed_and_logged(model_dir, data, tmp_path, capsys):
    assert prune(model_dir, data, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    log = (tmp_path / "out" / "log.txt").read_text()
    for word in ("accuracy", "KL to dense", "MACs", "parameters", "weights (MB)", "latency", "seconds: data"):
        assert word in printed
        assert word in log
    assert "the data has 32 rows to calibrate on, fewer than 2048" in log
    assert str(tmp_path / "out") in printed


def test_a_shorter_length_is_not_saved_with_the_tokenizer(model_dir, data, tmp_path):
    assert prune(model_dir, data, tmp_path / "out", "--max-length", "8") == 0
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (model_dir / "tokenizer.json").read_bytes()


def test_no_path_is_written_that_was_not_typed(model_dir, data, tmp_path, monkeypatch):
    monkeypatch.chdir(model_dir.parent)
    assert prune(Path("model"), Path("rows.jsonl"), Path("..", "out")) == 0
    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_the_same_command_gives_the_same_bytes(model_dir, data, tmp_path):
    for out in ("one", "two"):
        assert prune(model_dir, data, tmp_path / out) == 0
    for name in ("model.safetensors", "config.json", "head_mask.pt", "neuron_mask.pt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8e9), ("500MB", 5e8), ("1.5 gb", 1.5e9), ("2K", 2e3), ("1T", 1e12), ("1000", 1e3)]
)
def test_sizes_are_read_as_they_are_written(text, size):
    assert read_size(text) == size


def test_a_limit_of_memory_gives_the_same_bytes(model_dir, data, tmp_path):
    for out, words in (("plain", []), ("disk", ["--max-memory", "0"]), ("large", ["--max-memory", "1GB"])):
        assert prune(model_dir, data, tmp_path / out, *words) == 0
    for out in ("disk", "large"):
        for name in ("model.safetensors", "head_mask.pt", "neuron_mask.pt"):
            assert (tmp_path / out / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_kind_of_model_is_pruned_scored_and_pruned_again(tmp_path, capsys, problem):
    model = save_model(tmp_path / "model", problem)
    data = write_jsonl(tmp_path / "rows.jsonl", problem_rows(problem))
    assert prune(model, data, tmp_path / "out", "--constraint", "0.7") == 0
    assert prune(tmp_path / "out", data, tmp_path / "again") == 0
    sizes = [json.loads((tmp_path / d / "results.json").read_text()) for d in ("out", "again")]
    sizes = [size["sizes"] for size in sizes]
    assert sizes[1]["dense"]["parameters"] == sizes[0]["pruned"]["parameters"] > sizes[1]["pruned"]["parameters"]
    report = evaluate(capsys, tmp_path / "again", "--data", data, "--reference", model)
    assert report["all"]["samples"] == 40
    assert report["all"]["divergence"] > 0


def test_what_was_reported_is_what_evaluate_finds(model_dir, tmp_path, capsys):
    write_jsonl(tmp_path / "data" / "train.jsonl", make_rows(30))
    write_jsonl(tmp_path / "data" / "validation.jsonl", make_rows(40, seed=1))
    assert prune(model_dir, tmp_path / "data", tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]
    for side, folder in (("dense", model_dir), ("pruned", tmp_path / "out")):
        report = evaluate(capsys, folder, "--data", tmp_path / "data", "--reference", model_dir)["validation"]
        assert report["samples"] == 40
        assert report["divergence"] == pytest.approx(metrics["divergence"] if side == "pruned" else 0, abs=1e-9)
        assert metrics[side].items() <= report.items()


def test_evaluating_under_masks_is_evaluating_the_pruned_model(model_dir, data, tmp_path, capsys):
    assert prune(model_dir, data, tmp_path / "out", "--method", "kwon2022", "--constraint", "0.3") == 0
    reference = ("--data", data, "--reference", model_dir)
    masked = evaluate(capsys, model_dir, "--masks", tmp_path / "out", *reference)["all"]
    assert masked == pytest.approx(evaluate(capsys, tmp_path / "out", *reference)["all"], rel=1e-3, abs=1e-9)
    assert masked["divergence"] > 0


@pytest.mark.parametrize("problem", PROBLEMS)
def test_scores_do_not_depend_on_the_batch_size(tmp_path, capsys, problem):
    model, dense = save_model(tmp_path / "model", problem), save_model(tmp_path / "dense", problem, seed=1)
    data = write_jsonl(tmp_path / "rows.jsonl", problem_rows(problem))
    words = (model, "--data", data, "--reference", dense, "--batch-size")
    one, many = (evaluate(capsys, *words, size)["all"] for size in (1, 64))
    assert one.keys() == many.keys()
    assert one["divergence"] > 0
    assert many == pytest.approx(one, abs=1e-5, rel=1e-5)


def test_the_report_is_written_where_it_is_wanted(model_dir, data, tmp_path, capsys):
    report = evaluate(capsys, model_dir, "--data", data, "--output", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == report
    assert report["all"].keys() == {"samples", "accuracy", "accuracy_ci95", "f1"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "json"])
def test_every_format_gives_what_json_lines_give(model_dir, data, tmp_path, capsys, suffix):
    import pandas

    other, frame = tmp_path / f"rows.{suffix}", pandas.DataFrame(make_rows())
    writers = {"csv": frame.to_csv, "tsv": lambda p: frame.to_csv(p, sep="\t"), "parquet": frame.to_parquet}
    writers.get(suffix, lambda p: frame.to_json(p, orient="records"))(other)
    assert evaluate(capsys, model_dir, "--data", other) == evaluate(capsys, model_dir, "--data", data)


def test_columns_can_be_named(model_dir, tmp_path, capsys):
    rows = [{"a": r["sentence"], "b": "film", "c": r["label"], "text": "bad", "label": 1} for r in make_rows()]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    report = evaluate(capsys, model_dir, "--data", data, "--text-column", "a", "b", "--label-column", "c")
    assert report != evaluate(capsys, model_dir, "--data", data)


def test_unlabelled_texts_are_enough(model_dir, tmp_path):
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": row["sentence"]} for row in make_rows()])
    assert prune(model_dir, data, tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["scores"]["dense"] == {}
    assert results["scores"]["divergence"] > 0


def test_the_version_is_printed(capsys):
    assert run(main, "--version") == 0
    assert capsys.readouterr().out == f"trimformer {trimformer.__version__}\n"


@pytest.mark.slow
def test_the_program_runs_as_a_module(model_dir, tmp_path):
    command = [sys.executable, "-m", "trimformer", "prune", model_dir, "--data", "no.csv"]
    command += ["--constraint", "0.5", "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no.csv" in error_line(done.stderr)


@pytest.mark.parametrize("command", ["prune", "evaluate", "finetune", "reproduce"])
def test_every_command_has_a_help_text(command, capsys):
    assert run(main, command, "--help") == 0
    assert f"trimformer {command}" in capsys.readouterr().out


# What is wrong -> how to make it so of a good model directory, and words of the error.


def test_a_model_of_halves_is_pruned_in_halves(tmp_path, data):
    model = AutoModelForSequenceClassification.from_pretrained(save_model(tmp_path / "model"))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    make_tokenizer().save_pretrained(tmp_path / "half")
    assert prune(tmp_path / "half", data, tmp_path / "out") == 0
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_a_model_of_halves_is_pruned_in_float32_on_request(tmp_path, data):
    model = AutoModelForSequenceClassification.from_pretrained(save_model(tmp_path / "model"))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    model.float().save_pretrained(tmp_path / "float")  # the same rounded weights
    for name, flags in (("half", ["--dtype", "float32"]), ("float", [])):
        make_tokenizer().save_pretrained(tmp_path / name)
        assert prune(tmp_path / name, data, tmp_path / f"out-{name}", *flags) == 0
    one, other = (load_file(tmp_path / f"out-{name}" / "model.safetensors") for name in ("half", "float"))
    assert one.keys() == other.keys()
    assert all(one[name].dtype == torch.float32 and torch.equal(one[name], other[name]) for name in one)


def test_evaluate_scores_in_another_dtype_on_request(tmp_path, data, capsys):
    dense = save_model(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(dense)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    model.float().save_pretrained(tmp_path / "float")  # the same rounded weights
    for name in ("half", "float"):
        make_tokenizer().save_pretrained(tmp_path / name)
    words = ("--data", data, "--reference", dense)
    half, asked, expected = (
        evaluate(capsys, tmp_path / name, *words, *flags)["all"]["divergence"]
        for name, flags in (("half", []), ("half", ["--dtype", "float32"]), ("float", []))
    )
    assert asked == expected != half


def test_reconstruct_is_the_full_update_of_any_method(model_dir, data, tmp_path):
    assert prune(model_dir, data, tmp_path / "one", "--method", "kwon2022", "--reconstruct") == 0
    assert prune(model_dir, data, tmp_path / "two", "--method", "kwon2022-reconstruct") == 0
    weights = [load_file(tmp_path / out / "model.safetensors") for out in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_choices_replace_those_of_the_preset(model_dir, data, tmp_path):
    words = ["--method", "kwon2022", "--criterion", "magnitude", "--allocation", "uniform", "--update", "none"]
    assert prune(model_dir, data, tmp_path / "one", *words) == 0
    assert prune(model_dir, data, tmp_path / "two", "--method", "magnitude") == 0
    masks = [
        read_masks(tmp_path / out, AutoModelForSequenceClassification.from_pretrained(model_dir))
        for out in ("one", "two")
    ]
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))


def test_a_budget_in_parameters_is_kept(model_dir, data, tmp_path):
    assert prune(model_dir, data, tmp_path / "out", "--metric", "parameters", "--constraint", "0.4") == 0
    models = [AutoModelForSequenceClassification.from_pretrained(d) for d in (model_dir, tmp_path / "out")]
    dense, pruned = (linear_costs(find_sublayers(model), "parameters", 1).dense for model in models)
    assert 0.3 * dense < pruned <= 0.4 * dense
