import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testing.language import language_model
from tests.commands import error_line, problem_rows, run, save_model, tree, write_jsonl
from tests.data.media_fixtures import save_image
from tests.export.gguf.tokenizers import KINDS, wrapped
from trimformer.cli.flags.sweep import read_numbers
from trimformer.cli.main import build_parser, main
from trimformer.cli.prune import MISSED
from trimformer.cli.resume import calibration_dir, forget_calibration
from trimformer.cli.sweep import gather, identify
from trimformer.errors import TrimformerError
from trimformer.export.gguf.export import export_gguf
from trimformer.options.budgets import BudgetRequest

FLAGS = ("--num-samples", "16", "--batch-size", "8", "--neuron-multiple", "4", "--label-column", "label")


def command(model, data, out, *words):
    words = words or ("--constraints", "0.8:0.4:0.2")
    return ["sweep", str(model), "--data", str(data), "--output", str(out), *FLAGS, *words]


def sweep(*arguments):
    return run(main, *command(*arguments))


def written(path: Path) -> dict[str, bytes]:
    """Everything whose bytes a sweep decides, which times are not."""
    return {
        name: (path / name).read_bytes() for name in tree(path) if name.endswith((".safetensors", ".pt", "config.json"))
    }


def test_a_directory_for_each_member_and_one_file_of_them_all(model_dir, data, tmp_path, capsys):
    assert sweep(model_dir, data, tmp_path / "out", "--constraints", "0.7,0.4", "--methods", "obs,magnitude") == 0
    family = json.loads((tmp_path / "out" / "family.json").read_text())
    names = ["obs-0.7", "obs-0.4", "magnitude-0.7", "magnitude-0.4"]
    assert [member["directory"] for member in family["members"]] == names
    for member in family["members"]:
        results = json.loads((tmp_path / "out" / member["directory"] / "results.json").read_text())
        assert member["scores"] == results["scores"]["pruned"]
        assert member["kept"] == results["budget"]["kept"] <= member["constraint"]
        assert member["sizes"] == results["sizes"]["pruned"]
    assert family["dense"]["sizes"]["macs"] > family["members"][0]["sizes"]["macs"]
    table = capsys.readouterr().out
    assert all(name in table for name in names)
    warnings = json.loads((tmp_path / "out" / "obs-0.7" / "results.json").read_text())["coverage"]["warnings"]
    assert warnings
    assert set(warnings) <= set(family["warnings"])
    assert all(f"warning: {line}" in table for line in warnings)
    assert evaluate_loads(tmp_path / "out" / "obs-0.7", data)


def evaluate_loads(model, data):
    return run(main, "evaluate", model, "--data", data, "--label-column", "label") == 0


def test_a_family_grows_and_what_is_there_is_left_alone(model_dir, data, tmp_path):
    out = tmp_path / "out"
    assert sweep(model_dir, data, out, "--constraints", "0.6") == 0
    before = {name: (out / "obs-0.6" / name).stat().st_mtime_ns for name in tree(out / "obs-0.6")}
    assert sweep(model_dir, data, out, "--constraints", "0.6,0.4") == 0
    assert before == {name: (out / "obs-0.6" / name).stat().st_mtime_ns for name in tree(out / "obs-0.6")}
    assert len(json.loads((out / "family.json").read_text())["members"]) == 2
    assert sweep(model_dir, data, out, "--constraints", "0.6,0.4") == 0  # nothing is left to do


def test_a_family_inside_its_models_folder_grows_too(model_dir, data, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    for budgets in ("0.6", "0.6,0.4"):
        assert sweep(model, data, model / "pruned", "--constraints", budgets) == 0
    assert tree(model / "pruned" / "obs-0.4").isdisjoint({"pruned", "family.json"})


@pytest.mark.slow
def test_killed_and_run_again_it_gives_the_same_bytes(model_dir, data, tmp_path):
    assert sweep(model_dir, data, tmp_path / "whole") == 0
    out, words = tmp_path / "out", command(model_dir, data, tmp_path / "out", "--constraints", "0.8:0.4:0.2")
    for wait in ("family.json", "obs-0.6"):
        process = subprocess.Popen([sys.executable, "-m", "trimformer", *words], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        while process.poll() is None and not (out / wait).exists():
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finished = {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in os.listdir(out)
                if name.startswith("obs-")}  # fmt: skip
    assert run(main, *words) == 0
    assert written(out) == written(tmp_path / "whole")
    assert all((out / name / "model.safetensors").stat().st_mtime_ns == then for name, then in finished.items())


def test_lists_of_budgets_are_parsed():
    assert read_numbers("0.9:0.1:0.1") == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert read_numbers("5,10,20") == [5.0, 10.0, 20.0]
    assert read_numbers("0.5:0.5:0.1") == [0.5]
    assert read_numbers(None) is None
    for text in ("0.9:0.1", "0.9:0.1:0", "a,b", "0.9:0.1:0.3", "1:2:nan", "::", "0:1e9:1e-9"):
        with pytest.raises(TrimformerError, match="is not a list of numbers"):
            read_numbers(text)


def test_bad_sweeps_are_refused_before_anything_is_written(model_dir, data, tmp_path, capsys):
    for words, flags in {
        "list of constraints is empty": ["--constraints", ","],
        "are not sorted": ["--constraints", "0.5,0.9,0.7"],
        "give either constraints or latencies": ["--latency-ms", "5", "--constraints", "0.5"],
        "is not a list of numbers": ["--constraints", "half"],
        "method 'no' is unknown": ["--constraints", "0.5", "--methods", "no"],
        "leaves no unit": ["--constraints", "0.5,0.00001"],
    }.items():
        assert sweep(model_dir, data, tmp_path / "out", *flags) == 2
        assert words in error_line(capsys.readouterr().err)
        assert not (tmp_path / "out").exists()


def test_another_models_family_is_left_alone(model_dir, data, tmp_path, capsys):
    assert sweep(model_dir, data, tmp_path / "out", "--constraints", "0.5") == 0
    before = written(tmp_path / "out")
    other = save_model(tmp_path / "other", seed=1)
    more = write_jsonl(tmp_path / "more.jsonl", problem_rows("single_label", 60))
    for words, arguments in {
        "holds a sweep of another model": (other, data, tmp_path / "out"),
        "holds a sweep of another data": (model_dir, more, tmp_path / "out"),
        "another --seed": (model_dir, data, tmp_path / "out", "--constraints", "0.5", "--seed", "1"),
    }.items():
        assert sweep(*arguments) == 2
        assert words in error_line(capsys.readouterr().err)
    assert written(tmp_path / "out") == before
    (tmp_path / "out" / "family.json").write_text("[]")
    assert sweep(model_dir, data, tmp_path / "out") == 2
    assert "was not written by 'trimformer sweep'" in error_line(capsys.readouterr().err)


def test_the_identity_of_a_sweep_is_in_contents_and_not_in_paths(model_dir, data, tmp_path):
    def identity(data=data, **polish_rows):
        polish_rows = polish_rows or {"count": 8}
        write_jsonl(tmp_path / "polish.jsonl", problem_rows("single_label", **polish_rows))
        words = command(model_dir, data, "out", "--constraints", "0.5", "--methods", "obs-polish")
        return identify(build_parser().parse_args([*words, "--polish-data", str(tmp_path / "polish.jsonl")]))

    first = identity(count=8)
    assert identity(count=9) != first
    assert identity(count=8) == first
    image = save_image(tmp_path / "a.png", seed=0)
    images = write_jsonl(tmp_path / "images.jsonl", [{"image": str(image)}])
    of_image = identity(images)
    save_image(image, seed=1)
    assert identity(images) != of_image
    moved = shutil.copy(data, tmp_path / "moved.jsonl")
    assert identity(moved, count=8) == first


def test_other_polish_data_under_the_same_name_are_refused(model_dir, data, tmp_path, capsys):
    polish = write_jsonl(tmp_path / "polish.jsonl", problem_rows("single_label", 8))
    flags = ("--constraints", "0.5", "--methods", "obs-polish", "--polish-data", str(polish))
    arguments = build_parser().parse_args(command(model_dir, data, tmp_path / "out", *flags))
    arguments.metric = "mac"
    (tmp_path / "out").mkdir()
    begun = {"identity": identify(arguments), "cost": {"seconds": {}}}
    (tmp_path / "out" / "family.json").write_text(json.dumps(begun))
    write_jsonl(polish, problem_rows("single_label", 9))
    capsys.readouterr()
    assert sweep(model_dir, data, tmp_path / "out", *flags) == 2
    assert "another --polish-data" in error_line(capsys.readouterr().err)


def test_a_killed_run_leaves_nothing_and_lost_weights_are_noticed(model_dir, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert sweep(model_dir, data, out, "--constraints", "0.5") == 0
    before = tree(tmp_path)
    for work in (out / ".obs-0.5.trimformer-part", out / ".out.trimformer-part"):  # killed right after the results
        work.mkdir(mode=0o700)
        (work / "lock").touch()
    (out / ".family.json.trimformer-part").write_text("{")
    assert sweep(model_dir, data, out, "--constraints", "0.5") == 0
    assert tree(tmp_path) == before
    (out / "obs-0.5" / "model.safetensors").unlink()
    capsys.readouterr()
    assert sweep(model_dir, data, out, "--constraints", "0.5") == 2
    assert "obs-0.5' has no weights" in error_line(capsys.readouterr().err)


def test_the_calibration_folder_of_another_is_neither_read_nor_removed(model_dir, data, tmp_path, capsys):
    theirs = tmp_path / ".out.trimformer-calibration"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "calibration-0-0.safetensors").write_text("theirs")
    linked = tmp_path / ".linked.trimformer-calibration"
    linked.symlink_to(tmp_path / "far")
    for name in ("out", "linked"):
        forget_calibration(tmp_path / name)
        arguments = argparse.Namespace(output=str(tmp_path / name), resume=False)
        assert calibration_dir(arguments) is None
        arguments.resume = True
        with pytest.raises(TrimformerError, match="which trimformer did not write; remove it"):
            calibration_dir(arguments)
    assert (theirs / "notes.txt").read_text() == "mine"
    assert (tmp_path / "far" / "calibration-0-0.safetensors").read_text() == "theirs"
    assert linked.is_symlink()
    (theirs / "notes.txt").unlink()
    (theirs / f"calibration-{'0' * 32}-0.safetensors").write_text("ours")
    forget_calibration(tmp_path / "out")
    assert not theirs.exists()


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (BudgetRequest(0.5), "0.5"),
        (BudgetRequest(0.5000001), "0.5000001"),
        (BudgetRequest(0.1 + 0.2), "0.3"),
        (BudgetRequest(0.00009), "0.00009"),
        (BudgetRequest(1.0), "1"),
        (BudgetRequest(ms=12.0), "12ms"),
        (BudgetRequest(mb=100.5), "100.5MB"),
    ],
)
def test_different_budgets_have_folders_of_different_names(request_, name):
    assert request_.name == name


def test_a_member_that_misses_its_latency_is_named_and_has_its_own_exit_code(model_dir, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert sweep(model_dir, data, out, "--constraints", "0.5,0.8") == 0
    file = out / "obs-0.5" / "results.json"
    results = json.loads(file.read_text())
    file.write_text(json.dumps({**results, "budget": {**results["budget"], "missed": True}}))
    capsys.readouterr()
    assert sweep(model_dir, data, out, "--constraints", "0.5,0.8") == MISSED == 3
    printed = capsys.readouterr()
    assert "obs-0.5: the latency budget is missed" in printed.err
    assert next(line.split("  ")[0] for line in printed.out.splitlines() if "!" in line).endswith("!")
    members = json.loads((out / "family.json").read_text())["members"]
    assert {member["directory"]: member["missed"] for member in members} == {"obs-0.5": True, "obs-0.8": False}


def test_milliseconds_are_those_of_the_first_members_machine(model_dir, data, tmp_path, caplog):
    out = tmp_path / "out"
    assert sweep(model_dir, data, out, "--constraints", "0.5,0.8") == 0
    results = {name: json.loads((out / name / "results.json").read_text()) for name in ("obs-0.5", "obs-0.8")}
    results["obs-0.8"]["machine"]["device"] = "another"
    results["obs-0.8"]["latency"]["dense_ms"]["median"] /= 1000
    known = {"cost": {"seconds": {}}}
    record = gather(results, {}, {}, known)
    assert record["dense"]["latency_ms"] == results["obs-0.5"]["latency"]["dense_ms"]
    ratios = [m["latency_ms"]["median"] * m["speedup"]["median"] for m in record["members"]]
    assert ratios == pytest.approx([results["obs-0.5"]["latency"]["dense_ms"]["median"]] * 2)
    assert "1 of 2 members were timed on another machine" in caplog.text


def test_a_gguf_file_is_swept(tmp_path):
    tokenizer = wrapped(KINDS["smollm"]())
    model = language_model("Llama", vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    file = export_gguf(model, tokenizer, tmp_path, ["f32"], verified=False).files[0].path
    text = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"text {i} of some length, for blocks"} for i in range(80)])
    words = ("--constraints", "0.8,0.6", "--num-samples", "8", "--seq-len", "16", "--batch-size", "4")
    assert run(main, "sweep", file, "--data", text, "--output", tmp_path / "out", *words) == 0
    assert len(json.loads((tmp_path / "out" / "family.json").read_text())["members"]) == 2
