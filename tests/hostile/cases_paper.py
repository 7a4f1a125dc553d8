"""Cases of `main.py`, the paper's command line: names that lead elsewhere, tables, and what its own flags take."""

from pathlib import Path
from typing import Any

import torch

from tests.hostile.world import LONG, Case, Evil, both, config, fifo, folder_of, link, ones, rows, saved, text

MAIN = "main.py --model_name tiny --task_name sst2 --ckpt_dir model --data_dir rows.jsonl --constraint 0.5"


def tables(heads: Any, neurons: Any) -> Any:
    return both(saved("mha.pt", heads), saved("ffn.pt", neurons))


def nothing(folder: Path) -> None:
    pass


HEADS, NEURONS = torch.arange(1.0, 5), torch.arange(1.0, 41)
TABLES = "--metric latency --mha_lut mha.pt --ffn_lut ffn.pt"

_FLAGS: dict[str, list[str]] = {
    "--model_name ": ["--model_name ''", "names no folder"],
    "--model_name .": ["--model_name '.'", "names no folder"],
    "--model_name /": ["--model_name '/'", "names no folder"],
    "--model_name ..": ["--model_name '..'", "leads out"],
    "--model_name ../tiny": ["--model_name '../tiny'", "leads out"],
    "--model_name a/../../tiny": ["--model_name 'a/../../tiny'", "leads out"],
    "--model_name /tmp/..": ["--model_name '/tmp/..'", "leads out"],
    "--model_name a\0b": ["output directory", "null"],
    f"--model_name {LONG}": ["too long"],
    "--task_name ": ["task ''", "unknown"],
    "--task_name frob": ["'frob'", "mnli"],
    "--task_name SST2": ["'SST2'", "sst2"],
    "--task_name ../../sst2": ["'../../sst2'", "unknown"],
    "--task_name s\0st2": ["unknown", "sst2"],
    "--task_name squad": ["'squad'", "span"],
    "--task_name stsb": ["'stsb'", "regression"],
    "--task_name mrpc": ["'sentence1'"],
    "--constraint ": ["--constraint"],
    "--constraint half": ["--constraint", "half"],
    "--constraint 0,5": ["--constraint", "0,5"],
    "--constraint nan": ["nan", "(0, 1]"],
    "--constraint inf": ["inf", "(0, 1]"],
    "--constraint 0": ["0", "(0, 1]"],
    "--constraint=-0.5": ["-0.5", "(0, 1]"],
    "--constraint 1.5": ["1.5", "(0, 1]"],
    "--constraint 1e-9": ["smallest reachable"],
    "--metric energy": ["--metric", "energy"],
    "--metric parameters": ["--metric", "parameters"],
    "--metric latency --mha_lut mha.pt": ["--ffn_lut"],
    "--metric mac --mha_lut mha.pt --ffn_lut ffn.pt": ["--mha_lut", "no effect", "--metric mac"],
    "--ffn_lut ffn.pt": ["--ffn_lut", "no effect", "--metric mac"],
    "--metric latency --any_lut": ["--any_lut", "--mha_lut"],
    "--metric latency --ffn_lut ffn.pt": ["--mha_lut"],
    "--method best": ["'best'", "kwon2022"],
    "--method ": ["method ''", "unknown"],
    "--method kprune --metric latency": ["kprune", "latency"],
    **{f"--seed {value}": ["--seed"] for value in ("", "-1", "1.5", "nan", "4294967296")},
    **{f"--num_samples {value}": ["--num_samples"] for value in ("0", "-1", "2e3")},
    "--num_samples 1": ["1 calibration samples", "too few"],
    **{f"--sample_batch_size {value}": ["--sample_batch_size"] for value in ("0", "x")},
    **{f"--gpu {value}": ["--gpu"] for value in ("-1", "x", "0.5")},
    "--frobnicate": ["--frobnicate"],
    "surplus": ["surplus"],
}
_TABLES: dict[str, tuple[Any, list[str]]] = {
    "missing": (nothing, ["mha.pt", "does not exist"]),
    "one missing": (saved("mha.pt", HEADS), ["ffn.pt", "does not exist"]),
    "a pickle": (tables(Evil(), NEURONS), ["mha.pt", "plain"]),
    "noise": (both(text("mha.pt", b"\x80\x04noise"), saved("ffn.pt", NEURONS)), ["mha.pt"]),
    "a folder": (both(folder_of("mha.pt"), saved("ffn.pt", NEURONS)), ["mha.pt"]),
    "a pipe": (both(fifo("mha.pt"), saved("ffn.pt", NEURONS)), ["mha.pt", "device or pipe"]),
    "NaN": (tables(ones(torch.nan, (1, 4))[0], NEURONS), ["mha.pt", "positive"]),
    "negative": (tables(HEADS, -NEURONS), ["ffn.pt", "positive"]),
    "texts": (tables(HEADS, ["fast"]), ["ffn.pt", "plain"]),
    "too short": (tables(HEADS, NEURONS[:5]), ["ffn", "5 entries"]),
    "the wrong way round": (tables(NEURONS, HEADS), ["attention", "40 entries"]),
}
_CHECKPOINTS: dict[str, tuple[str, Any, list[str]]] = {
    "empty": ("", nothing, ["model directory", "no name"]),
    "missing": ("./nowhere", nothing, ["./nowhere", "does not exist"]),
    "far away": ("/no/such/ckpt", nothing, ["/no/such/ckpt", "does not exist"]),
    "a file": ("rows.jsonl", nothing, ["rows.jsonl", "is a file"]),
    "a pipe": ("pipe", fifo("pipe"), ["'pipe'", "device or pipe"]),
    "a dangling link": ("ghost", link("ghost", "nowhere"), ["'ghost'", "does not exist"]),
    "a loop": ("loop", link("loop", "loop"), ["'loop'", "symbolic links"]),
    "a zero byte": ("m\0odel", nothing, ["model directory", "null"]),
    "too long": (LONG, nothing, ["too long"]),
    "an empty folder": ("void", folder_of("void"), ["'void'"]),
    "a broken config": ("model", text("model/config.json", "{"), ["config"]),
    "10^9 layers": ("model", config(num_hidden_layers=10**9), ["num_hidden_layers"]),
}
_DATA: dict[str, tuple[str, Any, list[str]]] = {
    "empty": ("", nothing, ["the data has an empty name"]),
    "missing": ("nowhere", nothing, ["nowhere", "does not exist"]),
    "an empty folder": ("void", folder_of("void"), ["'void'", "no train or validation file"]),
    "no training rows": (
        "folder",
        both(folder_of("folder"), rows(name="folder/validation.jsonl")),
        ["no 'train' split"],
    ),
    "of no known type": ("rows.xyz", text("rows.xyz", "x"), ["rows.xyz", "known"]),
    "a pipe": ("pipe.jsonl", fifo("pipe.jsonl"), ["pipe.jsonl", "device or pipe"]),
    "a zero byte": ("r\0ows", nothing, ["data file", "null"]),
    "other columns": ("x.csv", text("x.csv", "text,label\n" + "a,1\n" * 9), ["'sentence'", "label, text"]),
    "a label beyond": ("x.csv", text("x.csv", "sentence,label\n" + "a,7\n" * 9), ["label 7"]),
}
_OUTPUTS: dict[str, tuple[str, Any, list[str]]] = {
    "empty": ("", nothing, ["output directory", "no name"]),
    "the checkpoint": ("model", nothing, ["'model'", "not empty"]),
    "a file": ("rows.jsonl", nothing, ["rows.jsonl", "is a file"]),
    "a dangling link": ("ghost", link("ghost", "nowhere"), ["'ghost'", "does not exist"]),
    "a zero byte": ("o\0ut", nothing, ["output directory", "null"]),
    "in proc": ("/proc/out", nothing, ["/proc/out", "cannot be"]),
}

CASES = {
    **{flags[:60]: Case(f"{MAIN} {flags}", says) for flags, says in _FLAGS.items()},
    **{f"tables: {name}": Case(f"{MAIN} {TABLES}", says, spoil) for name, (spoil, says) in _TABLES.items()},
    **{
        f"{flag} {name}": Case(f"{MAIN} {flag} {value}", says, spoil)
        for flag, cases in {"--ckpt_dir": _CHECKPOINTS, "--data_dir": _DATA, "--output_dir": _OUTPUTS}.items()
        for name, (value, spoil, says) in cases.items()
    },
    "the output is there": Case(
        MAIN, ["outputs/tiny/sst2/mac/0.5/seed_0", "not empty"], text("outputs/tiny/sst2/mac/0.5/seed_0/log.txt", "x")
    ),
    "outputs is a file": Case(MAIN, ["outputs", "is a file"], text("outputs", "x")),
    "no task": Case("main.py --model_name tiny --ckpt_dir model --constraint 0.5", ["--task_name"]),
    "nothing": Case("main.py", ["--model_name", "--constraint"]),
}
