"""What pruning promises, checked on a tiny random model of every supported family and head: writes docs/families.md.

    python benchmarks/families.py               # some minutes on one core
    python benchmarks/families.py --only Bert   # prints the rows of families that begin so, writes nothing

Models and checks are those of the tests, tests/families.py.
"""

import argparse
import sys
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.families import CHECKS, FAMILIES, GRID, exists, make  # noqa: E402

import trimformer  # noqa: E402, F401  loading of shrunk models
from trimformer.arch.families import REFUSED  # noqa: E402

OLDEST = "5.18.0"  # of Transformers, with which all of this holds; found by running this under older ones

HEADER = """# Supported models

Written by `python benchmarks/families.py` under Transformers {version} and torch {torch}, float32 on a CPU.
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

A family that is not here costs a few lines: see [CONTRIBUTING.md](../CONTRIBUTING.md).

| family | head | {checks} |
|---|---|{rule}
"""

FOOTER = """
## Layers that are refused

A model with such layers is refused before any work, with the reason:

| layer | reason |
|---|---|
"""


def row(family: str, head: str) -> str:
    """A line of the table."""
    if not exists(family, head):
        return f"| {family} | {head} | {' | '.join('not in this version' for _ in CHECKS)} |"
    model = make(family, head)
    worst = (f"{check(model):.0e}" for check in CHECKS.values())
    return f"| {family} | {head} | {' | '.join('0' if w == '0e+00' else w for w in worst)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="beginning of a family's name")
    only = parser.parse_args().only
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    lines = []
    for family, head in GRID:
        if family.startswith(only):
            lines.append(row(family, head))
            print(lines[-1], flush=True)
    if only:
        return
    header = HEADER.format(
        version=transformers.__version__,
        torch=torch.__version__,
        oldest=OLDEST,
        checks=" | ".join(CHECKS),
        rule="---|" * len(CHECKS),
    )
    refused = "\n".join(f"| `{layer}` | {reason} |" for layer, reason in sorted(REFUSED.items()))
    (ROOT / "docs/families.md").write_text(header + "\n".join(lines) + "\n" + FOOTER + refused + "\n")
    print(f"{len(lines)} models of {len(FAMILIES)} families and layouts")


if __name__ == "__main__":
    main()
