"""Cases of paths: what is read is not there or is something else, what is written has no place."""

from pathlib import Path
from typing import Any

from tests.hostile.world import LONG, Case, fifo, folder_of, link, text

# The way to each command's output, and to what it reads.
_OUTPUTS = {
    "prune": "prune model --data rows.jsonl --constraint 0.5 --output",
    "export": "export model --output",
    "lut": "lut model --bs 2 --seq-len 4 --output",
    "finetune": "finetune --model_name_or_path model --train_file rows.jsonl --do_train --use_cpu --output_dir",
}
_FILES = {
    "evaluate": "evaluate model --data rows.jsonl --output",
    "bench": "bench model --bs 1 --seq-len 4 --output",
}
_MODELS = {
    "prune": "prune {} --data rows.jsonl --constraint 0.5 --output out",
    "evaluate": "evaluate {} --data rows.jsonl",
    "reference": "evaluate model --data rows.jsonl --reference {}",
    "export": "export {} --output out",
    "lut": "lut {} --bs 2 --seq-len 4 --output out",
    "bench": "bench {} --bs 1 --seq-len 4",
    "finetune": "finetune --model_name_or_path {} --train_file rows.jsonl --do_train --use_cpu --output_dir out",
}
_DATA = {
    "prune": "prune model --data {} --constraint 0.5 --output out",
    "evaluate": "evaluate model --data {}",
    "export": "export model --output out --data {}",
    "finetune": "finetune --model_name_or_path model --train_file {} --do_train --use_cpu --output_dir out",
}


def nothing(folder: Path) -> None:
    pass


_BAD_OUTPUTS = {
    "not empty": ("model", ["'model'", "not empty"], nothing),
    "hidden file": ("there", ["'there'", "not empty", "'.hidden'"], text("there/.hidden", "x")),
    "a file": ("rows.jsonl", ["rows.jsonl", "is a file"], nothing),
    "below a file": ("rows.jsonl/out", ["rows.jsonl", "is a file"], nothing),
    "dangling link": ("ghost", ["'ghost'", "link", "does not exist"], link("ghost", "nowhere")),
    "below a dangling link": ("ghost/out", ["ghost", "cannot be made"], link("ghost", "nowhere")),
    "loop": ("loop", ["'loop'", "cannot be made"], link("loop", "loop")),
    "too long": (LONG, ["cannot be made", "too long"], nothing),
    "a pipe": ("pipe", ["'pipe'", "cannot be made"], fifo("pipe")),
    "in proc": ("/proc/out", ["'/proc/out'", "cannot be"], nothing),
    "a device": ("/dev/null", ["/dev/null", "cannot be made"], nothing),
}
_BAD_FILES = {
    "the model's weights": ("model/model.safetensors", ["model.safetensors", "exists"], nothing),
    "the model's config": ("model/config.json", ["config.json", "exists"], nothing),
    "the data": ("rows.jsonl", ["rows.jsonl", "exists"], nothing),
    "any file": ("mine.txt", ["mine.txt", "exists"], text("mine.txt", "x")),
    "a folder": ("model", ["'model'", "is a folder"], nothing),
    "no folder": ("no/such/scores.json", ["no/such/scores.json", "does not exist"], nothing),
    "below a file": ("rows.jsonl/scores.json", ["rows.jsonl", "is a file"], nothing),
    "dangling link": ("ghost", ["'ghost'", "link", "does not exist"], link("ghost", "nowhere")),
    "loop": ("loop", ["'loop'", "cannot be made"], link("loop", "loop")),
    "too long": (LONG, ["cannot be made", "too long"], nothing),
    "full device": ("/dev/full", ["/dev/full", "exists"], nothing),
    "in proc": ("/proc/scores.json", ["/proc/scores.json", "cannot be"], nothing),
}
_BAD_MODELS = {
    "missing": ("./nowhere", ["./nowhere", "does not exist"], nothing),
    "far away": ("/no/such/model", ["/no/such/model", "does not exist"], nothing),
    "three parts": ("a/b/c", ["a/b/c", "does not exist"], nothing),
    "a file": ("rows.jsonl", ["rows.jsonl", "is a file"], nothing),
    "a pipe": ("pipe", ["'pipe'", "device or pipe"], fifo("pipe")),
    "dangling link": ("ghost", ["'ghost'", "link", "does not exist"], link("ghost", "nowhere")),
    "loop": ("loop", ["'loop'", "symbolic links"], link("loop", "loop")),
    "too long": (LONG, ["xxx", "too long"], nothing),
}
_BAD_DATA = {
    "missing": ("nothing.jsonl", ["nothing.jsonl", "does not exist"], nothing),
    "unknown type": ("rows.xyz", ["rows.xyz", "known"], text("rows.xyz", "x")),
    "a pipe": ("pipe.jsonl", ["pipe.jsonl", "device or pipe"], fifo("pipe.jsonl")),
    "a device": ("/dev/zero", ["/dev/zero", "device or pipe"], nothing),
    "dangling link": ("ghost.csv", ["ghost.csv", "link", "does not exist"], link("ghost.csv", "nowhere")),
    "loop": ("loop.csv", ["loop.csv", "symbolic links"], link("loop.csv", "loop.csv")),
    "too long": (f"{LONG}.csv", ["xxx", "too long"], nothing),
    "an empty folder": ("empty", ["empty"], folder_of("empty")),
}


def _cross(commands: dict[str, str], bad: dict[str, Any], what: str) -> dict[str, Case]:
    made = {}
    for command, words in commands.items():
        for name, (place, says, spoil) in bad.items():
            whole = words.replace("{}", place) if "{}" in words else f"{words} {place}"
            made[f"{command}: {what} {name}"] = Case(whole, says, spoil)
    return made


CASES = {
    **_cross(_OUTPUTS, _BAD_OUTPUTS, "output"),
    **_cross(_FILES, _BAD_FILES, "output"),
    **_cross(_MODELS, _BAD_MODELS, "model"),
    **_cross(_DATA, _BAD_DATA, "data"),
}
