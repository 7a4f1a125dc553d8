"""Measures how often `prune --max-drop` keeps its promise on several tasks and seeds, and what it costs.

    python benchmarks/targets.py                                                 # movie reviews only
    python benchmarks/targets.py --data-root DIR --tasks movie trec sst2 mrpc --seeds 0 1 2

DIR holds a folder of train.jsonl and validation.jsonl per task. The budget is chosen on training rows that do not
calibrate; the drop is that on the validation set, which nothing else reads. Costs are in forward passes of the dense
model over the calibration samples, and compared with one prune to half of the MACs and with a sweep of nine budgets.
Checkpoints are those of benchmarks/accuracy.py. Writes JSON and Markdown.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import SETTINGS, find_assets
from tqdm.auto import tqdm

import trimformer
from trimformer.checkpoints.save_load import load
from trimformer.cli.logs import set_up_logging
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import TASKS, task_of
from trimformer.options.budgets import BudgetRequest
from trimformer.options.data import DataOptions
from trimformer.options.methods import find_method
from trimformer.options.run import RunOptions
from trimformer.session.inputs import Inputs
from trimformer.session.measure import PRUNING
from trimformer.session.setup import set_up
from trimformer.sweeping import SweepMember, prune_members
from trimformer.utils.environment import describe_device, versions

NINE = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def run_task(name: str, options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Yields a record for each seed."""
    data, checkpoint = find_assets(name, options.data_root)
    model, processor = load(checkpoint)
    train, validation = find_splits(read_splits(data))
    task = TASKS.get(name) or task_of(model, next(iter(validation.values())), label_column="label")
    shared = {"eval_dataset": validation, "task": task, "num_samples": options.num_samples}
    half = trimformer.prune(model, processor, train, 0.5, seed=options.seeds[0], **shared)
    for seed in options.seeds:
        result = trimformer.prune(model, processor, train, max_drop=options.max_drop, seed=seed, **shared)
        metric, target = str(task.metric), result.target
        assert result.scores is not None
        assert target is not None
        assert result.sizes is not None
        dense, pruned = result.scores.dense[metric], result.scores.pruned[metric]
        yield {
            "task": name,
            "seed": seed,
            "metric": metric,
            "asked": options.max_drop,
            "judged": target.samples,
            "measured": target.measured,
            "bound": target.bound,
            "tried": [asdict(verdict) for verdict in target.tried],
            "macs": result.sizes["pruned"].macs / result.sizes["dense"].macs,
            "dense": dense,
            "drop": 100 * (dense - pruned),
            "rows": result.samples.evaluation,
            "passes": result.cost.forward_passes["total"],
            "passes_of_one": half.cost.forward_passes["total"],
            "seconds": sum(result.cost.seconds.values()),
            "seconds_of_one": sum(half.cost.seconds.values()),
        }


def sweep_cost(options: argparse.Namespace) -> dict[str, float]:
    """Returns the forward passes of one prune to half of the MACs and of a sweep of nine budgets."""
    data, checkpoint = find_assets(options.tasks[0], options.data_root)
    model, processor = load(checkpoint)
    train, validation = find_splits(read_splits(data))
    method, totals = find_method("obs"), []
    for budgets in ([0.5], NINE):
        run = RunOptions(DataOptions(label_column="label", num_samples=options.num_samples))
        session = set_up(Inputs(model, processor, train, validation), [method], options=run)
        prune_members(
            session, [SweepMember("obs", method, BudgetRequest(budget)) for budget in budgets], lambda *_: None
        )
        seconds = sum(value for stage, value in session.timer.seconds.items() if stage in PRUNING)
        totals.append(seconds / session.seconds_per_pass)
    return {"one": totals[0], "nine": totals[1]}


def _mean(rows: list[dict[str, Any]], key: str, form: str) -> str:
    """Returns the formatted mean over the rows that have the figure, or a dash where none has."""
    values = [row[key] for row in rows if row[key] is not None]
    return f"{np.mean(values):{form}}" if values else "-"


def to_markdown(records: list[dict[str, Any]], sweep: dict[str, float] | None) -> str:
    lines = [
        "| task | MACs kept, by seed | drop on judged rows < bound | drop on validation rows | promise kept | trials "
        "| passes; of one prune | seconds; of one prune |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(record["task"] for record in records):
        rows = [record for record in records if record["task"] == task]

        def values(key: str, form: str, rows: list[dict[str, Any]] = rows, scale: float = 1.0) -> str:
            return " ".join(f"{scale * row[key]:{form}}" for row in rows)

        trials = " ".join(str(len(row["tried"])) for row in rows)
        bounds = ", ".join(f"{row['measured']:.2f} < {row['bound']:.2f}" for row in rows)
        promises_kept = sum(row["drop"] <= row["asked"] for row in rows)
        passes = f"{_mean(rows, 'passes', '.1f')}, {_mean(rows, 'passes_of_one', '.1f')}"
        seconds = f"{_mean(rows, 'seconds', '.0f')}, {_mean(rows, 'seconds_of_one', '.0f')}"
        name = f"{task} ({rows[0]['metric']}, {rows[0]['judged']:,} judged, {rows[0]['rows']:,} validation)"
        lines.append(
            f"| {name} | {values('macs', '.0f', scale=100)} % | {bounds} | {values('drop', '.2f')} "
            f"| {promises_kept} of {len(rows)} | {trials} | {passes} | {seconds} |"
        )
    if sweep:
        ratio = sweep["nine"] / sweep["one"]
        lines += ["", f"Nine budgets: {sweep['nine']:.1f} passes, one prune {sweep['one']:.1f}: {ratio:.2f} times."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--tasks", nargs="+", choices=list(SETTINGS), default=["movie"])
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-samples", type=int, default=1024)
    parser.add_argument("--no-sweep", action="store_true", help="leave out the cost of nine budgets")
    parser.add_argument("--output", type=Path, default=Path("outputs/targets"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sweep = None if options.no_sweep else sweep_cost(options)
    records: list[dict[str, Any]] = []
    for task in options.tasks:
        for record in tqdm(run_task(task, options), desc=task, disable=None):
            records.append(record)
            result = {"device": describe_device(torch.device("cpu")), **versions(), "sweep": sweep, "records": records}
            options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            options.output.with_suffix(".md").write_text(to_markdown(records, sweep))
    print(to_markdown(records, sweep))


if __name__ == "__main__":
    main()
