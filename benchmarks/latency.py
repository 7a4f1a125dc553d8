"""Compares predicted with measured latency, latency budgets with results, and latency search with MAC search.

    python benchmarks/latency.py                                          # on this machine, a quarter of an hour
    python benchmarks/latency.py --device cuda --dtype float16

For each model and shape: a table is measured. It predicts the latency of 12 random masks, which are then timed in turn
with the dense model; the dense model shows how far the machine's speed has drifted since the table. Then the model is
pruned to three latencies, timed and corrected once, as `trimformer prune` does. Last, MiniLM-L6 fine-tuned on movie
reviews is pruned by latency and by MACs to the same estimated latency. Writes JSON and Markdown.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import finetuned, movie_reviews

from trimformer.checkpoints.save_load import load
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost_tables import Costs, linear_costs
from trimformer.costs.latency_bench import resized
from trimformer.costs.measure_latency import measure_table
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing
from trimformer.costs.workloads import ForwardPass
from trimformer.data.batches import make_batches, mean_length, sample_indices
from trimformer.data.outputs import find_problem
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import infer_task
from trimformer.evaluation.latency_target import LatencyTarget, compare_latency
from trimformer.evaluation.scores import Scorer
from trimformer.models import find_sublayers
from trimformer.options.methods import METHODS, Method
from trimformer.pruner import Pruner
from trimformer.utils.environment import describe_device, resolve_device, versions

# Random weights: timing does not depend on them.
SIZES = {
    "MiniLM-L6": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "BERT-base": BertConfig(),
}


def random_units(model: PreTrainedModel, count: int) -> Iterator[list[int]]:
    """Yields random numbers of units for each sublayer, neurons in multiples of 32."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        shares = np.clip(rng.uniform(0.1, 0.9) + rng.normal(0, 0.25, len(find_sublayers(model))), 0, 1)
        units = [int(s.num_units * share) for s, share in zip(find_sublayers(model), shares, strict=True)]
        yield [u // 32 * 32 if s.kind == "ffn" else u for s, u in zip(find_sublayers(model), units, strict=True)]


def run_shape(name: str, model: PreTrainedModel, shape: tuple[int, int], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the prediction errors of random masks and the latencies of models pruned to each budget."""
    start = time.perf_counter()
    table = measure_table(model, *shape, backend=options.backend, seconds=options.seconds)
    table_seconds = time.perf_counter() - start
    costs, workload = table.costs(model), ForwardPass(random_inputs(model, *shape), options.backend)
    units_of_masks = list(random_units(model, options.masks))
    models = [model, *(resized(model, units) for units in units_of_masks)]
    dense, *measured = (Timing.of(laps) for laps in workload.time(models, seconds=2.0 * len(models)))
    errors = [costs.of(units) / t.median - 1 for units, t in zip(units_of_masks, measured, strict=True)]
    drift = dense.median / costs.dense
    pruner = Pruner(model, [], Method("magnitude", "dp", "none"))
    targets = []
    for constraint in options.constraints:
        target = LatencyTarget(model, costs, constraint, None, workload)
        student = pruner(costs, constraint, target).model
        latency = compare_latency(model, student, workload)
        ratio = [latency.ratio.median, latency.ratio.low, latency.ratio.high]
        targets.append({"asked": constraint, "ratio": ratio, "corrected": target.corrected})
    return {
        "model": name,
        "shape": list(shape),
        "dense_ms": costs.dense,
        "fixed_ms": table.fixed,
        "table_seconds": table_seconds,
        "widths_measured": {kind: len(rows) for kind, rows in table.measured.items()},
        "noise": float(np.median([t.noise for t in measured])),
        "errors": errors,
        "drift": drift,
        "errors_to_dense": [(1 + error) * drift - 1 for error in errors],
        "promises": targets,
    }


def compare_searches(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns accuracy and divergence of a model pruned to the same latency by latency search and by MAC search."""
    data = movie_reviews()
    model, tokenizer = load(finetuned("movie-reviews", data, epochs=1, label_column="label"))
    model.to(options.device)
    train, validation = find_splits(read_splits(data))
    rows = next(iter(validation.values()))
    task = infer_task(find_problem(model), model.config, rows, label_column="label")
    scorer = Scorer("validation", rows, task, model, tokenizer)
    references = scorer(model)[1]
    features = task.encode([train[i] for i in sample_indices(len(train), 1024, 0)], tokenizer, model.config)
    pruner = Pruner(model, make_batches(features, tokenizer, 32, model.device), METHODS["obs"])
    macs = linear_costs(find_sublayers(model), "mac", mean_length(features))
    records = []
    for shape, constraint in product(options.compare_shapes, options.constraints):
        if constraint == options.constraints[0]:
            costs = measure_table(model, *shape, seconds=options.seconds).costs(model)
            workload = ForwardPass(random_inputs(model, *shape))
        by_latency = pruner(costs, constraint)
        budget = costs.of(s.num_units for s in find_sublayers(by_latency.model))
        by_macs = pruner(macs, mac_constraint(pruner, macs, costs, budget))
        for search, pruned in (("latency", by_latency), ("MACs", by_macs)):
            units = [s.num_units for s in find_sublayers(pruned.model)]
            latency = compare_latency(model, pruned.model, workload)
            metrics, outputs = scorer(pruned.model)
            records.append(
                {
                    "shape": list(shape),
                    "asked": constraint,
                    "search": search,
                    "estimated": costs.of(units) / costs.dense,
                    "ratio": [latency.ratio.median, latency.ratio.low, latency.ratio.high],
                    "macs": macs.of(units) / macs.dense,
                    "score": metrics[str(task.metric)],
                    "divergence": scorer.divergence(outputs, references),
                }
            )
    return records


def mac_constraint(pruner: Pruner, macs: Costs, costs: Costs, budget_ms: float) -> float:
    """Returns the largest MAC constraint whose selection is within the latency, according to the table."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        units = [int(mask.count_nonzero()) for mask in pruner.select(macs, middle)]
        low, high = (middle, high) if costs.of(units) <= budget_ms else (low, middle)
    return low


def spread(ratio: list[float]) -> str:
    return f"{ratio[0]:.3f} ± {(ratio[2] - ratio[1]) / 2:.3f}"


def to_markdown(result: dict[str, Any]) -> str:
    lines = [
        "| model | batch x length | dense ms | table s | error, median (worst) | drift | error without drift "
        "| asked: measured / dense |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in result["shapes"]:
        errors, relative = np.abs(r["errors"]), np.abs(r["errors_to_dense"])
        targets = ", ".join(f"{p['asked']:g}: {spread(p['ratio'])}{'*' * p['corrected']}" for p in r["promises"])
        shape = f"{r['shape'][0]} x {r['shape'][1]}"
        lines.append(
            f"| {r['model']} | {shape} | {r['dense_ms']:.1f} | {r['table_seconds']:.0f} | "
            f"{100 * np.median(errors):.1f} % ({100 * errors.max():.1f} %) | {100 * (r['drift'] - 1):+.1f} % | "
            f"{100 * np.median(relative):.1f} % ({100 * relative.max():.1f} %) | {targets} |"
        )
    if result["searches"]:
        lines += [
            "",
            "| batch x length | latency asked | search | measured / dense | MACs / dense | accuracy | KL to dense |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for r in result["searches"]:
            lines.append(
                f"| {r['shape'][0]} x {r['shape'][1]} | {r['asked']:g} | {r['search']} | {spread(r['ratio'])} | "
                f"{r['macs']:.3f} | {100 * r['score']:.1f} | {r['divergence']:.4f} |"
            )
    return "\n".join(lines)


def parse_shape(text: str) -> tuple[int, int]:
    batch, length = text.split("x")
    return int(batch), int(length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=[(1, 32), (8, 128), (32, 64)])
    parser.add_argument("--compare-shapes", nargs="+", type=parse_shape, default=[(1, 32), (1, 512)],
                        help="shapes of the comparison of latency and MAC search")  # fmt: skip
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.7, 0.5, 0.3])
    parser.add_argument("--masks", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0, help="longest time for each table")
    parser.add_argument("--backend", choices=["eager", "compile", "onnx"], default="eager")
    parser.add_argument("--device", type=resolve_device, default="auto")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--no-searches", dest="searches", action="store_false")
    parser.add_argument("--output", type=Path, default=Path("outputs/latency"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"device": describe_device(options.device), "dtype": options.dtype}
    result |= {"backend": options.backend, **versions(), "shapes": [], "searches": []}

    def write() -> None:
        options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(to_markdown(result) + "\n")

    for name in options.models:
        torch.manual_seed(0)
        model = BertForSequenceClassification(SIZES[name]).eval()
        model.to(options.device, getattr(torch, options.dtype))
        for shape in options.shapes:
            result["shapes"].append(run_shape(name, model, shape, options))
            write()
    if options.searches:
        result["searches"] = compare_searches(options)
        write()
    print(f"{result['device']}, {options.backend}, {options.dtype}; * after the correction round\n")
    print(to_markdown(result))


if __name__ == "__main__":
    main()
