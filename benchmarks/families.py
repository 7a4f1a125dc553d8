"""Checks pruning on a tiny random model of every supported family and head, and writes docs/families.md.

    python benchmarks/families.py               # half an hour on one core; an interrupted run continues
    python benchmarks/families.py --again       # start again
    python benchmarks/families.py --only Bert   # print the rows of families whose name begins so, write nothing
    python benchmarks/families.py --without-onnx  # a few minutes; rows without figures of ONNX say "not run"

The models and checks are in testing/families.py, which the tests use too. docs/families.json holds the figures.
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
from testing.families import CHECKS, FAMILIES, GENERATORS, GRID, SHAPES, exists, exported, make  # noqa: E402
from testing.generation import GENERATION_CHECKS, make_generator  # noqa: E402
from trimformer.errors import TrimformerError  # noqa: E402
from trimformer.models.families import REFUSED, REFUSED_PARTS  # noqa: E402

OLDEST = "5.18.0"  # of Transformers, with which all of this holds; found by running this under older ones
PAGE, RECORDS = ROOT / "docs/families.md", ROOT / "docs/families.json"
SETTING = {"transformers": transformers.__version__, "torch": torch.__version__}
ONNX = ("ONNX", "int8")

HEADER = """# Supported models

Written by `python benchmarks/families.py` with Transformers {transformers} and torch {torch}, float32 on a CPU.
The oldest Transformers in which every model that it contains passes is {oldest} (UltraBERT came later); one head of
each family also passes with 5.20, 5.22 and 5.23. Older versions build some layers differently: up to 5.17, DINOv2 is
refused with an error; up to 5.14, **a shrunk T5 or mT5 is wrong where there is padding**; with 5.0, about twenty
families fail.

Each row is a tiny random model with padding in its batch. A figure is the largest difference between two outputs,
relative to the largest value; 1e-7 is the last bit of a float:

- *masked == shrunk*: about four in ten units are masked, or removed;
- *saved == reloaded*: the shrunk model, and the model that `from_pretrained` loads from its directory;
- *pruned again*: pruned in two steps, or in one;
- *one head*: masked == shrunk with a single head and neuron in each layer;
- *no unit left*: the same with none at all.

The last two columns compare the shrunk model's files for ONNX Runtime with PyTorch, on {samples} random samples in
{batches} batches: texts and sounds of random lengths with padding, random images. The first batch is traced; no other
batch has as many samples or tokens. Random texts use a vocabulary of 60 words; `tests/test_real_model.py` tests a
hundred real texts.

- *ONNX*: the largest absolute difference of any output from PyTorch's. A file is refused if it is more than 1e-4, or
  more than 1e-4 of the largest output where that is above 1;
- *int8*: the mean divergence of the int8 file: KL in nats for classes, 1 - cosine for models without a head. These
  models are random and narrow, so the figure shows that such a file works, not what a real one loses. "not run": no
  file was written.

Another family takes a few lines of code: see [CONTRIBUTING.md](../CONTRIBUTING.md).

| family | head | {columns} |
|---|---|{rule}
"""

UNEXPORTED = """
## Models without an ONNX file

A model that PyTorch's exporter cannot trace, or that gives other outputs in ONNX Runtime, is refused with an error that
names the class, and nothing is written. Of {total} rows above, {count}:

| error | models |
|---|---|
"""

LANGUAGE = """
## Language models

The same tiny models with their heads for text generation, on batches padded on the left and on the right. Figures are
again the largest difference of logits, relative to the largest:

- *masked == shrunk* and *saved == reloaded*: without any attention in one of the three layers;
- *dynamic cache* and *static cache*: greedy decoding, token by token, by the shrunk model without attention in layer 0,
  against the masked model without a cache;
- *no attention left*: the same with a dynamic cache and without attention in any layer.

| family | class | {columns} |
|---|---|{rule}
"""

FOOTER = """
## Refused layers

A model with one of these layers is refused before any work, with the reason:

| layer | reason |
|---|---|
"""


def measure_missing(row: dict[str, Any], family: str, head: str, with_onnx: bool) -> bool:
    """Adds the figures that a row lacks, and returns whether there were any."""
    before = len(row)
    if "checks" not in row:
        model = make(family, head)
        row["checks"] = {name: check(model) for name, check in CHECKS.items()}
    if with_onnx and not {"refused", *ONNX} & set(row):
        row |= onnx_figures(family, head)
    return len(row) > before


def onnx_figures(family: str, head: str) -> dict[str, Any]:
    """Returns the figures of a model's ONNX files, or the error with which export refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            float32, int8 = exported(make(family, head), Path(folder))
        except TrimformerError as error:
            return {"refused": str(error)}
    return {"ONNX": float32.difference, "int8": max(0.0, int8.divergence)}


def table_row(family: str, head: str, row: dict[str, Any] | None) -> str:
    """Returns one row of the Markdown table."""
    if row is None:
        cells = ["not in this version"] * len((*CHECKS, *ONNX))
    else:
        cells = [_figure(row["checks"][name]) for name in CHECKS]
        cells += ["refused" if "refused" in row else _figure(row.get(name)) for name in ONNX]
    return f"| {family} | {head} | {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "not run" if value is None else f"{value:.0e}" if value else "0"


def generator_figures(family: str) -> dict[str, float]:
    """Returns the figures of the family's language model."""
    model = make_generator(family)
    return {name: check(model) for name, check in GENERATION_CHECKS.items()}


def page(rows: dict[str, Any], generators: dict[str, dict[str, float]]) -> str:
    """Returns the whole of docs/families.md."""
    columns = (*CHECKS, *ONNX)
    header = HEADER.format(
        **SETTING,
        oldest=OLDEST,
        samples=sum(samples for samples, *_ in SHAPES),
        batches=len(SHAPES),
        columns=" | ".join(columns),
        rule="---|" * len(columns),
    )
    lines = [table_row(*model, rows.get(" ".join(model))) for model in GRID]
    columns = tuple(GENERATION_CHECKS)
    language = LANGUAGE.format(columns=" | ".join(columns), rule="---|" * len(columns))
    language += "".join(
        f"| {family} | {GENERATORS[family]} | {' | '.join(map(_figure, figures.values()))} |\n"
        for family, figures in generators.items()
    )
    reasons = [(f"`{layer}`", reason) for layer, reason in sorted(REFUSED.items())]
    parts = [(f"any other with a part named `{part}`", reason) for part, reason in REFUSED_PARTS.items()]
    refused = "".join(f"| {layer} | {reason} |\n" for layer, reason in reasons + _readable(parts))
    return header + "\n".join(lines) + "\n" + _unexported(rows) + language + FOOTER + refused


def _readable(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns patterns and reasons as the text of table cells."""
    return [(part.replace("|", "`, `").replace("$", ""), reason.replace(" ({part})", "")) for part, reason in parts]


def _unexported(rows: dict[str, Any]) -> str:
    """Returns the section of the models without a file, grouped by error."""
    models_by_error = defaultdict(list)
    for family, head in GRID:
        error = rows.get(f"{family} {head}", {}).get("refused")
        if error:
            models_by_error[error.replace(FAMILIES[family].prefix + head, "...")].append(f"{family} {head}")
    lines = [f"| {error} | {'; '.join(models)} |" for error, models in models_by_error.items()]
    count = sum(map(len, models_by_error.values()))
    total = sum(1 for row in rows.values() if {"refused", *ONNX} & set(row))
    return UNEXPORTED.format(count=count, total=total) + "\n".join(lines) + "\n" if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="beginning of a family's name")
    parser.add_argument("--again", action="store_true", help="measure again what docs/families.json has")
    parser.add_argument("--without-onnx", action="store_true", help="write no files for ONNX Runtime")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    records = {} if options.again or options.only or not RECORDS.exists() else json.loads(RECORDS.read_text())
    records = records if records.get("setting") == SETTING else {"setting": SETTING}
    rows, generators = records.setdefault("rows", {}), records.setdefault("generators", {})
    for family, head in GRID:
        if not family.startswith(options.only) or not exists(family, head):
            continue
        row = rows.setdefault(f"{family} {head}", {})
        if not measure_missing(row, family, head, with_onnx=not options.without_onnx):
            continue
        print(table_row(family, head, row), flush=True)
        if not options.only:
            RECORDS.write_text(json.dumps(records, indent=1) + "\n")
    for family in GENERATORS:
        if family.startswith(options.only) and family not in generators and hasattr(transformers, GENERATORS[family]):
            generators[family] = generator_figures(family)
            print(family, *map(_figure, generators[family].values()), flush=True)
    if not options.only:
        RECORDS.write_text(json.dumps(records, indent=1) + "\n")
        PAGE.write_text(page(rows, generators))
        print(f"{len(rows)} models of {len(FAMILIES)} families and layouts")


if __name__ == "__main__":
    main()
