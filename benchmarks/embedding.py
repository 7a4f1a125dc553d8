"""Measures how near a pruned embedder is to the dense one: rank correlation, cosine, neighbours that stay.

    python benchmarks/embedding.py --data DIR

DIR holds train.jsonl and validation.jsonl with the columns sentence1, sentence2 and label (their similarity).
all-MiniLM-L6-v2 from the package registry is calibrated on the training texts without their scores, by `obs` and by
the paper's method (Fisher, mask search, rescaling) on the same label-free loss. Writes JSON and prints Markdown.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import minilm

from trimformer import Method, Pruner, Run, load
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost_tables import Costs, linear_costs
from trimformer.data.batches import Features, make_batches, mean_length
from trimformer.data.splits import read_splits
from trimformer.data.tasks import Task, task_of
from trimformer.evaluation.scores import Scorer, compare, score
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.utils.environment import describe_device, versions

METHODS = {"obs": Method(), "kwon2022, without labels": Method("fisher", "global", "scale", "curvature")}


def calibration(
    model: Any, tokenizer: Any, texts: Sequence[str], number: int, seed: int
) -> tuple[Task, Sequence[Features], list[Batch], Costs]:
    """Returns the task, the samples, their batches and the MACs of a random part of the texts."""
    order = np.random.default_rng(seed).permutation(len(texts))[:number]
    chosen = [{"text": texts[i]} for i in order]
    task = task_of(model, chosen)
    features = task.encode(chosen, tokenizer, model.config)
    costs = linear_costs(find_sublayers(model), "mac", mean_length(features))
    return task, features, make_batches(features, tokenizer, 32), costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=2048)
    parser.add_argument("--constraints", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/embedding"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    model, tokenizer = load(minilm())
    splits = read_splits(options.data)
    texts = sorted({str(row[name]) for row in splits["train"] for name in ("sentence1", "sentence2")})
    _, features, batches, costs = calibration(model, tokenizer, texts, options.num_samples, options.seed)
    rows = splits["validation"]
    scorer = Scorer("validation", rows, task_of(model, rows), model, tokenizer)
    dense = score([scorer], model, "dense")
    records: list[dict[str, Any]] = []
    for name, method in METHODS.items():
        pruner = Pruner(model, batches, method, run=Run(seed=options.seed))
        for constraint in tqdm(options.constraints, desc=name, disable=None):
            pruned = pruner(costs, constraint).model
            scores = compare([scorer], dense, score([scorer], pruned, "pruned"))
            records.append(
                {
                    "method": name,
                    "constraint": constraint,
                    "dense_spearman": scores.dense["spearman"],
                    "spearman": scores.pruned["spearman"],
                    "cosine": 1 - scores.divergence,
                    "neighbours": scores.neighbours,
                }
            )
    result = {
        "device": describe_device(torch.device("cpu")),
        "versions": versions(),
        "samples": len(features),
        "validation_rows": len(rows),
        "records": records,
    }
    table = to_markdown(records)
    options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table)


def to_markdown(records: list[dict[str, Any]]) -> str:
    """Returns a table with a row for each method and budget."""
    lines = ["| method | MACs | Spearman | cosine to dense | ten nearest that stay |", "|---|---|---|---|---|"]
    lines.append(f"| dense | 100 % | {100 * records[0]['dense_spearman']:.1f} | 1 | 100 % |")
    lines += [
        f"| {r['method']} | {100 * r['constraint']:.0f} % | {100 * r['spearman']:.1f} | {r['cosine']:.3f} "
        f"| {100 * r['neighbours']:.1f} % |"
        for r in records
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
