"""Cases of `sweep`: lists that make no family, outputs that hold something else, families that were tampered with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.world import LONG, Case, both, config, fifo, folder_of, link, rows, text, weights
from trimformer.cli.flags.sweep import read
from trimformer.cli.main import build_parser
from trimformer.cli.sweep import identify

SWEEP = "sweep model --data rows.jsonl --output out --constraints 0.5"
BARE = "sweep model --data rows.jsonl --output out"
OUTPUT = "sweep model --data rows.jsonl --constraints 0.5 --output"


def begun(edit: Callable[[dict[str, Any]], Any] = lambda family: None) -> Callable[[Path], Any]:
    """What such a sweep leaves in `out` when it is broken off, edited."""

    def spoil(folder: Path) -> None:
        words = ["sweep", str(folder / "model"), "--data", str(folder / "rows.jsonl"), "--output", "out"]
        arguments = build_parser().parse_args([*words, "--constraints", "0.5"])
        arguments.metric = read(arguments).budgets.resolved_metric
        family = {"identity": identify(arguments), "cost": {"seconds": {}}}
        edit(family)
        text("out/family.json", json.dumps(family))(folder)

    return spoil


def member(content: str, name: str = "obs-0.5") -> Callable[[Path], Any]:
    """A broken-off sweep whose folder of a member holds this as its results."""
    return both(begun(), text(f"out/{name}/results.json", content))


# What is left of a result that a family is told by, and what each part may not lack.
_RESULT: dict[str, Any] = {"budget": {"metric": "mac", "constraint": 0.5}}

_BUDGETS: dict[str, list[str]] = {
    "": ["either constraints or latencies"],
    "--constraints ": ["constraints", "empty"],
    "--constraints ,": ["constraints", "empty"],
    "--constraints half": ["'half'", "not a list of numbers"],
    "--constraints 0.5;0.3": ["'0.5;0.3'", "not a list of numbers"],
    "--constraints nan": ["nan", "(0, 1]"],
    "--constraints 0.5,nan": ["nan"],
    "--constraints nan,0.5": ["nan"],
    "--constraints inf": ["inf", "(0, 1]"],
    "--constraints 0": ["0", "(0, 1]"],
    "--constraints 1.5,0.5": ["1.5", "(0, 1]"],
    "--constraints 0.5,-0.5": ["-0.5", "(0, 1]"],
    "--constraints 0.5,0.5": ["each once"],
    "--constraints 0.5,0.9,0.7": ["are not sorted"],
    "--constraints 0.5,1e-9": ["leaves no unit"],
    "--constraints 0.9:0.1": ["'0.9:0.1'", "not a list of numbers"],
    "--constraints 0.9:0.1:0": ["'0.9:0.1:0'", "not a list of numbers"],
    "--constraints 0.9:0.1:0.3": ["'0.9:0.1:0.3'", "not a list of numbers"],
    "--constraints 0.9:0.1:-0.1": ["not a list of numbers"],
    "--constraints 0.9:0.1:0.1:0.1": ["not a list of numbers"],
    "--constraints 1:0:1e-9": ["not a list of numbers"],
    "--constraints 0.5:0.1:0.1,0.05": ["not a list of numbers"],
    "--latency-ms ": ["latencies", "empty"],
    "--latency-ms fast": ["'fast'", "not a list of numbers"],
    "--latency-ms 5,nan": ["nan"],
    "--latency-ms nan": ["nan", "latency"],
    "--latency-ms inf": ["inf", "latency"],
    "--latency-ms 0": ["0", "latency"],
    "--latency-ms 5,-5": ["-5", "latency"],
    "--latency-ms 5,5": ["each once"],
    "--latency-ms 5,20,10": ["are not sorted"],
    "--latency-ms 5ms": ["'5ms'", "not a list of numbers"],
    "--latency-ms 5 --constraints 0.5": ["either constraints or latencies"],
    "--latency-ms 5 --metric mac": ["metric 'latency'", "'mac'"],
    "--latency-ms 5 --methods kprune": ["kprune", "latency"],
}
_FLAGS: dict[str, list[str]] = {
    "--methods best": ["'best'", "unknown"],
    "--methods obs,best": ["'best'", "unknown"],
    "--methods obs,obs": ["obs", "named twice"],
    "--methods ": ["empty", "name one"],
    "--methods ,": ["empty", "name one"],
    "--methods kprune --bf16": ["kprune", "bf16"],
    "--methods obs,kprune --layout plain": ["kprune", "layout"],
    "--methods obs,kprune --metric latency": ["kprune", "latency"],
    "--max-drop 1": ["--max-drop"],
    "--layout best": ["--layout"],
    "--metric time": ["--metric"],
    "--backend fast": ["--backend"],
    "--bs 0": ["--bs"],
    "--seq-len x": ["--seq-len"],
    "--seq-len 9999": ["9999"],
    "--neuron-multiple 0": ["--neuron-multiple"],
    "--num-samples 0": ["--num-samples"],
    "--num-samples 1": ["1 calibration samples", "too few"],
    "--batch-size 1.5": ["--batch-size"],
    "--max-memory 8XB": ["--max-memory"],
    "--max-length 2": ["maximum length of 2"],
    "--seed -1": ["--seed"],
    "--device tpu9": ["tpu9"],
    "--task frob": ["'frob'"],
    "--task squad": ["'squad'", "span"],
    "--task sst2 --label-column label": ["--task", "--label-column"],
    "--text-column nothing": ["'nothing'"],
    "--label-column nothing": ["'nothing'"],
    "--polish-data rows.jsonl": ["polish"],
    "--polish-budget 3x": ["polish"],
    "--polish-stoppable": ["polish"],
    "--methods obs-polish --polish-data nothing.jsonl": ["nothing.jsonl", "does not exist"],
    "--methods obs-polish --polish-budget much": ["much"],
    "surplus": ["surplus"],
}
_OUTPUTS: dict[str, tuple[str, list[str], Any]] = {
    "empty": ("", ["output"], None),
    "a model": ("model", ["'model'", "not empty"], None),
    "a hidden file": ("there", ["'there'", "'.hidden'"], text("there/.hidden", "x")),
    "a file": ("rows.jsonl", ["rows.jsonl", "is a file"], None),
    "below a file": ("rows.jsonl/out", ["rows.jsonl", "is a file"], None),
    "a dangling link": ("ghost", ["'ghost'", "does not exist"], link("ghost", "nowhere")),
    "below a dangling link": ("ghost/out", ["ghost", "cannot be made"], link("ghost", "nowhere")),
    "a loop": ("loop", ["'loop'", "cannot be made"], link("loop", "loop")),
    "too long": (LONG, ["cannot be made", "too long"], None),
    "a pipe": ("pipe", ["'pipe'", "cannot be made"], fifo("pipe")),
    "a device": ("/dev/null", ["/dev/null", "cannot be made"], None),
    "in proc": ("/proc/out", ["/proc/out", "cannot be"], None),
    "a zero byte": ("o\0ut", ["cannot be made"], None),
    "a single pruned model": ("small", ["'small'", "not empty"], text("small/results.json", "{}")),
    "members without a family": ("out", ["'out'", "not empty"], text("out/obs-0.5/results.json", "{}")),
    "a folder named family.json": ("out", ["'out'", "not empty"], text("out/family.json/x", "")),
    "a family that is a dangling link": (
        "out", ["'out'", "not empty"], both(folder_of("out"), link("out/family.json", "nowhere"))
    ),
}  # fmt: skip
_FAMILIES: dict[str, tuple[Any, list[str]]] = {
    "empty": (text("out/family.json", ""), ["family.json", "not written by"]),
    "half": (text("out/family.json", '{"identity": {'), ["family.json", "not written by"]),
    "a list": (text("out/family.json", "[]"), ["family.json", "not written by"]),
    "null": (text("out/family.json", "null"), ["family.json", "not written by"]),
    "bytes": (text("out/family.json", b"\xff\xfe"), ["family.json", "not written by"]),
    "deep": (text("out/family.json", "[" * 100_000), ["family.json", "not written by"]),
    "of nothing": (text("out/family.json", "{}"), ["family.json", "not written by"]),
    "an identity of text": (begun(lambda f: f.update(identity="me")), ["family.json", "not written by"]),
    "without flags": (begun(lambda f: f["identity"].pop("flags")), ["family.json", "not written by"]),
    "flags of a list": (begun(lambda f: f["identity"].update(flags=[1])), ["family.json", "not written by"]),
    "without a cost": (begun(lambda f: f.pop("cost")), ["family.json", "not written by"]),
    "a cost of text": (
        begun(lambda f: f.update(cost={"seconds": {"data": "long"}})),
        ["family.json", "not written by"],
    ),
    "a cost of a list": (begun(lambda f: f.update(cost={"seconds": [1]})), ["family.json", "not written by"]),
    "of another model": (both(begun(), config(hidden_act="relu")), ["'out'", "another model"]),
    "of other weights": (
        both(begun(), weights(lambda t: t["classifier.bias"].add_(1))), ["'out'", "another model"]
    ),
    "of other data": (both(begun(), rows({"sentence": "a", "label": 1})), ["'out'", "another data"]),
    "of another version": (
        begun(lambda f: f["identity"].update(trimformer="0.0.1")), ["'out'", "another trimformer"]
    ),
    "of another seed": (begun(lambda f: f["identity"]["flags"].update(seed=7)), ["'out'", "another --seed"]),
    "of another metric": (
        begun(lambda f: f["identity"]["flags"].update(metric="parameters")), ["'out'", "another --metric"]
    ),
    "of an unknown flag": (begun(lambda f: f["identity"]["flags"].update(frob=1)), ["'out'", "another --frob"]),
}  # fmt: skip
_MEMBERS: dict[str, tuple[Any, list[str]]] = {
    "empty results": (member(""), ["obs-0.5", "results.json"]),
    "half of the results": (member('{"budget": '), ["obs-0.5", "results.json"]),
    "results of a list": (member("[]"), ["obs-0.5", "results.json"]),
    "results of bytes": (both(begun(), text("out/obs-0.5/results.json", b"\xff")), ["obs-0.5", "results.json"]),
    "deep results": (member("[" * 100_000), ["obs-0.5", "results.json"]),
    "results that lack their scores": (member(json.dumps(_RESULT)), ["obs-0.5", "results.json"]),
    "another member's broken results": (member("{", "obs-0.3"), ["obs-0.3", "results.json"]),
    "results of an unknown method": (member(json.dumps(_RESULT), "best-0.3"), ["best-0.3", "results.json"]),
    "a folder without results": (both(begun(), text("out/obs-0.5/config.json", "{}")), ["obs-0.5", "not empty"]),
    "results that are a folder": (both(begun(), text("out/obs-0.5/results.json/x", "")), ["obs-0.5", "not empty"]),
    "a file": (both(begun(), text("out/obs-0.5", "x")), ["obs-0.5", "is a file"]),
    "a dangling link": (both(begun(), link("out/obs-0.5", "nowhere")), ["obs-0.5", "does not exist"]),
}
_READ: dict[str, tuple[str, list[str], Any]] = {
    "no model": (SWEEP.replace("model", "./nowhere", 1), ["./nowhere", "does not exist"], None),
    "a model that is a file": (SWEEP.replace("model", "rows.jsonl", 1), ["rows.jsonl", "is a file"], None),
    "a broken config": (SWEEP, ["config"], text("model/config.json", "{")),
    "10^9 layers": (SWEEP, ["num_hidden_layers"], config(num_hidden_layers=10**9)),
    "weights of NaN": (
        SWEEP, ["classifier.bias", "NaN"], weights(lambda t: t["classifier.bias"].fill_(float("nan")))
    ),
    "no weights": (SWEEP, ["no weights"], lambda folder: (folder / "model" / "model.safetensors").unlink()),
    "no data": (SWEEP.replace("--data rows.jsonl ", ""), ["no data", "--data"], None),
    "data that are not there": (SWEEP.replace("rows", "nothing"), ["nothing.jsonl", "does not exist"], None),
    "data of no known type": (SWEEP.replace("rows.jsonl", "rows.xyz"), ["rows.xyz", "known"], text("rows.xyz", "x")),
    "data of a pipe": (SWEEP.replace("rows.jsonl", "pipe"), ["'pipe'", "device or pipe"], fifo("pipe")),
    "empty data": (SWEEP, ["rows.jsonl", "empty"], text("rows.jsonl", "")),
    "half a line": (SWEEP, ["rows.jsonl", "line 13"], lambda f: (f / "rows.jsonl").open("a").write('{"sent')),
    "three rows": (SWEEP, ["too few rows"], rows(*[{"sentence": "a", "label": 1}] * 3, instead=True)),
    "a label beyond": (SWEEP, ["label 2", "row "], rows(*[{"sentence": "a", "label": 2}] * 9, instead=True)),
    "no labels for a method that reads them": (
        SWEEP + " --methods obs,kwon2022", ["needs labels"], rows(*[{"sentence": "a film"}] * 9, instead=True)
    ),
}  # fmt: skip


def _case(words: str, says: list[str], spoil: Any) -> Case:
    return Case(words, says, spoil) if spoil else Case(words, says)


CASES = {
    **{f"budgets {flags}": Case(f"{BARE} {flags}" if flags else BARE, says) for flags, says in _BUDGETS.items()},
    **{f"flags {flags}": Case(f"{SWEEP} {flags}", says) for flags, says in _FLAGS.items()},
    **{f"output {name}": _case(f"{OUTPUT} {out}", says, spoil) for name, (out, says, spoil) in _OUTPUTS.items()},
    **{f"family {name}": Case(SWEEP, says, spoil) for name, (spoil, says) in _FAMILIES.items()},
    **{f"member {name}": Case(SWEEP, says, spoil) for name, (spoil, says) in _MEMBERS.items()},
    **{f"read: {name}": _case(words, says, spoil) for name, (words, says, spoil) in _READ.items()},
}  # fmt: skip
