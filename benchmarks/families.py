"""What pruning promises, checked on a tiny random model of every supported family and head: writes docs/families.md.

    python benchmarks/families.py               # half an hour on a core of its own; goes on where it was cut off
    python benchmarks/families.py --again       # from the beginning
    python benchmarks/families.py --only Bert   # prints the rows of families that begin so, writes nothing

The models and checks are in testing/families.py, which the tests use too. Results are kept in docs/families.json.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import trimformer  # noqa: E402, F401  loading of shrunk models
from testing.families import CHECKS, FAMILIES, GRID, SHAPES, exists, exported, make  # noqa: E402
from trimformer.errors import TrimformerError  # noqa: E402
from trimformer.models.families import REFUSED  # noqa: E402

OLDEST = "5.18.0"  # of Transformers, with which all of this holds; found by running this under older ones
PAGE, RECORDS = ROOT / "docs/families.md", ROOT / "docs/families.json"
SETTING = {"transformers": transformers.__version__, "torch": torch.__version__}
ONNX = ("ONNX", "int8")

HEADER = """# Supported models

Written by `python benchmarks/families.py` under Transformers {transformers} and torch {torch}, float32 on a CPU.
The oldest Transformers with which every model it has passes is {oldest} (UltraBERT came later); one head of each
family also passes with 5.20, 5.22 and 5.23. Older ones build some layers otherwise: up to 5.17 DINOv2 is refused
with a sentence, and up to 5.14 **a shrunk T5 or mT5 is wrong where there is padding**; with 5.0 some twenty
families fail.

Each row is a tiny random model with padding in its batch. Figures are the largest difference between two outputs,
relative to the largest value, where 1e-7 is the last bit of a float:

- *masked == shrunk*: some four in ten units masked, or cut out;
- *saved == reloaded*: the shrunk model, and what `from_pretrained` makes of its directory;
- *pruned again*: pruned in two steps, or in one;
- *one head*: masked == shrunk with a single head and neuron in each layer;
- *no unit left*: the same with none at all.

The last two are of the shrunk model's files for ONNX Runtime, on {samples} random samples in {batches} batches:
texts and sounds of random lengths with padding, random images. The first batch is traced, and no other has as many
samples, or tokens. Words of a vocabulary of 60 are no real texts: `tests/test_real_model.py` has a hundred of those.

- *ONNX*: the largest difference of any output from PyTorch's, absolute; more than 1e-4, or than 1e-4 of the largest
  output where that is above 1, and the file is refused;
- *int8*: the mean divergence of the file in eight bits: of classes the KL in nats, of what has no head 1 - cosine.
  These models are random and narrow, so this tells that such a file works, not what a real one loses.

A family that is not here costs a few lines: see [CONTRIBUTING.md](../CONTRIBUTING.md).

| family | head | {columns} |
|---|---|{rule}
"""

UNEXPORTED = """
## What has no file

What PyTorch's exporter does not follow, or what gives something else in ONNX Runtime, is refused in one sentence that
names the class, and nothing is written. Of the rows above, {count} of {total}:

| sentence | models |
|---|---|
"""

FOOTER = """
## Layers that are refused

A model with such layers is refused before any work, with the reason:

| layer | reason |
|---|---|
"""


def complete(found: dict[str, Any], family: str, head: str) -> bool:
    """Adds what the table shows of a model and is not there; whether that was anything."""
    before = len(found)
    if "checks" not in found:
        model = make(family, head)
        found["checks"] = {name: check(model) for name, check in CHECKS.items()}
    if not {"refused", *ONNX} & set(found):
        found |= in_onnx(family, head)
    return len(found) > before


def in_onnx(family: str, head: str) -> dict[str, Any]:
    """Of its files; or why it has none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            plain, small = exported(make(family, head), Path(folder))
        except TrimformerError as error:
            return {"refused": str(error)}
    return {"ONNX": plain.difference, "int8": max(0.0, small.divergence)}


def line(family: str, head: str, found: dict[str, Any] | None) -> str:
    """A row of the table."""
    if found is None:
        cells = ["not in this version"] * len((*CHECKS, *ONNX))
    else:
        cells = [_figure(found["checks"][name]) for name in CHECKS]
        cells += ["refused" if "refused" in found else _figure(found.get(name)) for name in ONNX]
    return f"| {family} | {head} | {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "not run" if value is None else f"{value:.0e}" if value else "0"


def page(rows: dict[str, Any]) -> str:
    """The whole of it."""
    columns = (*CHECKS, *ONNX)
    header = HEADER.format(
        **SETTING,
        oldest=OLDEST,
        samples=sum(samples for samples, *_ in SHAPES),
        batches=len(SHAPES),
        columns=" | ".join(columns),
        rule="---|" * len(columns),
    )
    lines = [line(*model, rows.get(" ".join(model))) for model in GRID]
    refused = "\n".join(f"| `{layer}` | {reason} |" for layer, reason in sorted(REFUSED.items()))
    return header + "\n".join(lines) + "\n" + _unexported(rows) + FOOTER + refused + "\n"


def _unexported(rows: dict[str, Any]) -> str:
    """The models without a file, by what is said of them."""
    said = defaultdict(list)
    for family, head in GRID:
        sentence = rows.get(f"{family} {head}", {}).get("refused")
        if sentence:
            said[sentence.replace(FAMILIES[family].prefix + head, "...")].append(f"{family} {head}")
    lines = [f"| {sentence} | {'; '.join(models)} |" for sentence, models in said.items()]
    count = sum(map(len, said.values()))
    return UNEXPORTED.format(count=count, total=len(rows)) + "\n".join(lines) + "\n" if said else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="beginning of a family's name")
    parser.add_argument("--again", action="store_true", help="also what docs/families.json has")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    known = {} if options.again or options.only or not RECORDS.exists() else json.loads(RECORDS.read_text())
    rows = known["rows"] if known.get("setting") == SETTING else {}
    for family, head in GRID:
        if not family.startswith(options.only) or not exists(family, head):
            continue
        found = rows.setdefault(f"{family} {head}", {})
        if not complete(found, family, head):
            continue
        print(line(family, head, found), flush=True)
        if not options.only:
            RECORDS.write_text(json.dumps({"setting": SETTING, "rows": rows}, indent=1) + "\n")
    if not options.only:
        PAGE.write_text(page(rows))
        print(f"{len(rows)} models of {len(FAMILIES)} families and layouts")


if __name__ == "__main__":
    main()
