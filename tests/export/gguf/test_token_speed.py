"""Tokens per second of GGUF files in llama.cpp."""

import json
import sys
from pathlib import Path

import pytest

from tests.commands import error_line
from tests.export.gguf.models import make, tokenizer
from trimformer.checkpoints.save_load import save
from trimformer.cli.main import main
from trimformer.costs import timing, token_speed
from trimformer.errors import TrimformerError
from trimformer.export.gguf import watched_process
from trimformer.export.gguf.timed_file import TimedFile, TokenTimes

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


class Fake:
    """A file of which each turn is slower than the one before, as on a machine that becomes busy."""

    def __init__(self, path, context, threads):
        self.factor, self.turn = {"dense": 1.0, "half": 0.5}[path.name], 0
        assert (context, threads) == (5 + token_speed.GENERATED + 8, 2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, prompt, generated, *, keep_prompt=False):
        assert (len(prompt), generated, keep_prompt) == (5, token_speed.GENERATED, False)
        self.turn += 1
        return TokenTimes(self.factor * self.turn, 10 * self.factor**2 * self.turn)


def test_files_are_compared_turn_by_turn(monkeypatch):
    monkeypatch.setattr(token_speed, "TimedFile", Fake)
    monkeypatch.setattr(timing, "now", iter(range(100)).__next__)
    dense, half = token_speed.time_files([Path("dense"), Path("half")], [1] * 5, threads=2, seconds=3.5)
    # The first turn is not counted; the clock, read from the fourth on, ends the turns after the sixth.
    assert (half["prefill"].ms.median, half["prefill"].ms.count) == (2.25, 6)
    assert dense["prefill"].ms.median == 2 * half["prefill"].ms.median
    assert dense["decode"].tokens_per_second == 1e3 / dense["decode"].ms.median
    for speed_of, prefill, decode in ((dense, 1, 1), (half, 2, 4)):
        for phase, ratio in (("prefill", prefill), ("decode", decode)):
            speedup = speed_of[phase].speedup
            assert speedup.median == speedup.low == speedup.high == ratio


def test_the_command_times_every_model_type_and_length(tmp_path, capsys):
    models = {"dense": make(), "pruned": make(layout="free")}
    for name, model in models.items():
        save(model, tokenizer(), tmp_path / name)
    paths = [str(tmp_path / name) for name in models]
    command = ["bench", *paths, "--backend", "llama.cpp", "--quantize", "f16,q4_0", "--seq-len", "8,16", "--seconds",
               "0.01", "--output", str(tmp_path / "speeds.json")]  # fmt: skip
    assert main(command) == 0
    written = json.loads((tmp_path / "speeds.json").read_text())
    assert written["backend"] == "llama.cpp"
    records = written["records"]
    assert [(r["seq_len"], r["model"], r["type"]) for r in records] == [
        (length, path, kind) for length in (8, 16) for path in paths for kind in ("f16", "q4_0")
    ]
    assert records[0]["bytes"] > records[1]["bytes"] > records[3]["bytes"]
    for record in records:
        for phase in ("prefill", "decode"):
            assert record[phase]["tokens_per_second"] == pytest.approx(1e3 / record[phase]["median"])
            assert record[phase]["count"] >= 3
    assert records[0]["decode"]["speedup"] == records[4]["prefill"]["speedup"] == 1
    assert "decode, tokens/s" in capsys.readouterr().out


def test_a_process_that_hangs_is_started_once_more_and_then_an_error(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\nexec sleep 100\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(watched_process, "SECONDS", 0.3)
    with TimedFile(tmp_path / "any.gguf", 64, 1) as file, pytest.raises(TrimformerError, match="it hangs"):
        file.time([1, 2], 4)
    assert (tmp_path / "starts").read_text().split() == ["started", "started"]


def test_a_file_that_cannot_be_loaded_is_an_error_and_its_process_ends(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    with TimedFile(tmp_path / "bad.gguf", 64, 1) as file:
        with pytest.raises(TrimformerError, match=r"llama\.cpp \(xllamacpp .*\) cannot run 'bad.gguf': "):
            file.time([1, 2], 4)
        process = file._process
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quantize", "q9"], "'q9' is not one of f32"),
        (["--bs", "8"], "one text at a time"),
        (["--dtype", "float16"], "--dtype applies to PyTorch only"),
        (["--device", "cuda"], "timed on the CPU only"),
        (["--seq-len", "240"], "takes 256 tokens, fewer than a prompt of 240 and 32 generated"),
    ],
)
def test_what_llama_cpp_cannot_time_is_refused(flags, message, tmp_path, capsys):
    save(make(), tokenizer(), tmp_path / "model")
    assert main(["bench", str(tmp_path / "model"), "--backend", "llama.cpp", *flags]) == 2
    assert message in error_line(capsys.readouterr().err)


def test_types_of_files_need_llama_cpp(tmp_path, capsys):
    assert main(["bench", str(tmp_path), "--quantize", "q8_0"]) == 2
    assert "give it with --backend llama.cpp" in error_line(capsys.readouterr().err)
