"""Measures how much of the loss of int8 and of the plain layout a polish regains.

    python benchmarks/repair.py                                        # movie reviews, from the package registry
    python benchmarks/repair.py --data-root DIR --tasks movie sst2 --constraints 0.5 0.3

A model is pruned in each layout to each budget, with and without a polish. Every result is exported in float32 and
int8 and scored in ONNX Runtime. Writes JSON and Markdown.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from accuracy import SETTINGS, cell, keep_records, table_head
from polish import calibration, find_task

from trimformer import Pruner, Run
from trimformer.cli.logs import set_up_logging
from trimformer.evaluation.onnx_files import write_onnx_files
from trimformer.evaluation.scores import Scorer
from trimformer.export.onnx.export import MODEL, QUANTIZED
from trimformer.export.onnx.serve import open_session, running_in
from trimformer.options.methods import Layout, find_method, with_layout
from trimformer.options.polish import PolishOptions
from trimformer.polish.data import draw_polish_inputs

FILES = {"float32": MODEL, "int8": QUANTIZED}


def serve(model: Any, scorer: Scorer) -> dict[str, tuple[dict[str, float], Sequence[torch.Tensor]]]:
    """Returns scores and outputs of a model's files in ONNX Runtime."""
    results = {}
    with TemporaryDirectory() as folder:
        write_onnx_files(model, place := Path(folder) / "served", scorer, int8=True)
        for name, file in FILES.items():
            session = open_session(place / file)
            with running_in(model, session):
                results[name] = scorer(model, name)
    return results


def run_task(task_name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a record for each model and file."""
    model, processor, task, train, scorer = find_task(task_name, options)
    metric, references = str(task.metric), None
    features, more, batches, costs = calibration(model, processor, task, train, options, options.seed)
    added = more[: max(0, options.samples - len(features))]
    chosen = PolishOptions(added or None, options.budget)
    polish_inputs = draw_polish_inputs(model, processor, task, features, chosen, options.batch_size)

    def models() -> Iterator[tuple[str, str, Any]]:
        yield "dense", "", model
        for layout, preset in product(options.layouts, ("obs", "obs-polish")):
            method, polishing = (
                with_layout(find_method(preset), layout),
                polish_inputs if preset == "obs-polish" else None,
            )
            pruner = Pruner(model, batches, method, polishing=polishing, run=Run(seed=options.seed))
            for constraint in options.constraints:
                way = f"polished on {len(features) + len(added):,}" if polishing else "as pruned"
                yield f"{layout}, {100 * constraint:g} % of MACs", way, pruner(costs, constraint).model

    for name, way, student in models():
        for file, (scores, outputs) in serve(student, scorer).items():
            references = references or outputs
            yield {"task": task_name, "metric": metric, "model": name, "way": way, "file": file,
                   "score": scores[metric], "divergence": scorer.divergence(outputs, references)}  # fmt: skip


def to_markdown(records: list[dict[str, Any]]) -> str:
    """Returns a table per task: score and divergence of each file."""
    lines = []
    for task in dict.fromkeys(record["task"] for record in records):
        of_task = [record for record in records if record["task"] == task]
        lines += table_head(f"{task}: {of_task[0]['metric']}", ["model", "", *FILES])
        for model, way in dict.fromkeys((r["model"], r["way"]) for r in of_task):
            row = [
                cell([r for r in of_task if (r["model"], r["way"], r["file"]) == (model, way, file)]) for file in FILES
            ]
            lines.append(f"| {model} | {way} | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--tasks", nargs="+", choices=list(SETTINGS), default=["movie"])
    parser.add_argument("--layouts", nargs="+", choices=get_args(Layout), default=["free", "plain"])
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.5, 0.3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-samples", type=int, default=1024, help="calibration samples")
    parser.add_argument("--samples", type=int, default=8192, help="samples to polish on, at most all")
    parser.add_argument("--budget", default="4x", metavar="10x|2min")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("outputs/repair"), help="without suffix")
    options = parser.parse_args()
    options.device = "cpu"
    set_up_logging()
    run = partial(run_task, options=options)
    keep_records(options.tasks, run, to_markdown, options.output, "cpu", [])
    print(options.output.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
