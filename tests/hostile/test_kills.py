"""Commands killed at random moments, and run again: the same bytes, and nothing left behind."""

import hashlib
import multiprocessing
import os
import random
import sys
import time

import pytest

from tests.commands import run, tree
from tests.hostile.world import FUZZ, world
from trimformer.cli.main import main

MOMENTS = 3 * FUZZ
LIMIT = 900  # seconds; on a busy machine a command takes minutes

# Words, the output, and which of its files hold no times.
COMMANDS = {
    "prune": ("prune model --data rows.jsonl --constraint 0.5 --output out", ("safetensors", ".pt", "config.json")),
    "prune, spilled": (
        "prune model --data rows.jsonl --constraint 0.5 --max-memory 0 --output out", ("safetensors", ".pt")
    ),
    "sweep": (
        "sweep model --data rows.jsonl --constraints 0.8,0.5 --resume --output out",
        ("safetensors", ".pt", "config.json"),
    ),
    "evaluate": ("evaluate model --data rows.jsonl --output out", ("out",)),
    "export": ("export model --output out", ("config.json", "tokenizer.json")),
    "lut": ("lut model --bs 2 --seq-len 4 --seconds 0.5 --output out", ()),
    "bench": ("bench model --bs 1 --seq-len 4 --seconds 0.2 --output out", ()),
    "finetune": (
        "finetune --model_name_or_path model --train_file rows.jsonl --do_train --use_cpu --output_dir out",
        ("safetensors", "config.json"),
    ),
}  # fmt: skip


def child(folder, words):
    """The command, in a process of its own that says nothing."""
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    sys.exit(run(main, *words))


def start(folder, words):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.hostile.test_kills", "trimformer.cli.prune", "trimformer.cli.finetune"])
    process = context.Process(target=child, args=(folder, words))
    process.start()
    return process


def digests(folder, suffixes):
    files = [path for path in [folder / "out", *(folder / "out").rglob("*")] if path.is_file()]
    chosen = [path for path in files if path.name.endswith(suffixes)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in chosen}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_is_run_again_as_if_nothing_had_been(name, tmp_path, tmp_path_factory, monkeypatch):
    line, suffixes = COMMANDS[name]
    words, made = line.split(), tmp_path_factory.mktemp("made")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    whole = world(made, "single_label", tmp_path / "whole")
    began = time.monotonic()
    process = start(whole, words)
    process.join(LIMIT)
    assert process.exitcode == 0
    seconds = time.monotonic() - began
    wanted, names = digests(whole, suffixes), tree(whole)
    assert wanted or not suffixes
    generator = random.Random(name)
    for moment in range(MOMENTS):
        folder = world(made, "single_label", tmp_path / f"killed-{moment}")
        process = start(folder, words)
        if moment % 3:
            time.sleep(generator.uniform(0, seconds))
        else:  # while it writes
            end = time.monotonic() + 2 * seconds
            while process.is_alive() and time.monotonic() < end and not list(folder.glob(".*/made/*")):
                time.sleep(0.001)
        process.kill()  # unless it has just ended
        process.join()
        if name != "sweep" and (folder / "out").exists():  # it was complete; a sweep continues
            assert digests(folder, suffixes) == wanted
            assert run_again(folder, words) == 2
        else:
            assert run_again(folder, words) == 0
        assert digests(folder, suffixes) == wanted
        assert tree(folder) == names


def run_again(folder, words):
    process = start(folder, words)
    process.join(LIMIT)
    return process.exitcode
