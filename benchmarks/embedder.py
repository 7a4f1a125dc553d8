"""Measures whether a pruned embedder still finds the right passage, before and after a polish, in float32 and int8.

    python benchmarks/embedder.py --retrieval DIR --sts DIR
    python benchmarks/embedder.py --retrieval DIR --sts DIR --int8 --models OUT      # with speed-ups
    python benchmarks/embedder.py --encoder MPNet-base --retrieval DIR --sts DIR --output embedder-mpnet

The files in the first folder hold the columns question and context: every question that occurs once searches all
contexts. The texts to calibrate and to polish on are the contexts and the questions that are not scored, without their
pairs; `--texts` takes the lines of another file instead. Neighbours that stay are those among questions and contexts.
The second folder holds validation.jsonl with sentence1, sentence2 and label, for rank correlation and the neighbours
that stay among these sentences. --models keeps the models as pruned, and times the files of all models in that folder
in turn with the dense model's in ONNX Runtime; a polish does not change their widths. Writes JSON and prints Markdown;
records that are in the JSON already are not measured again.
"""

import argparse
import json
import math
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accuracy import served_int8
from embedding import calibration
from latency import parse_shape

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import ENCODERS

from trimformer import Pruner, Run, load, save
from trimformer.cli.logs import set_up_logging
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing, interleaved
from trimformer.data.files import read_rows, read_texts
from trimformer.data.splits import read_splits
from trimformer.data.tasks import task_of
from trimformer.evaluation.onnx_files import feeds, write_onnx_files
from trimformer.evaluation.scores import Scorer
from trimformer.export.onnx.export import MODEL, QUANTIZED
from trimformer.export.onnx.serve import open_session
from trimformer.options.methods import METHODS, Method, polishes
from trimformer.options.polish import PolishOptions
from trimformer.polish.data import draw_polish_inputs
from trimformer.utils.environment import describe_device, versions
from trimformer.utils.stage_timer import StageTimer

EMBEDDER_METHODS = {name: m for name, m in METHODS.items() if isinstance(m, Method) and not polishes(m)}
SCORES = ("mrr@10", "ndcg@10", "recall@10", "neighbours", "cosine", "sts spearman", "sts neighbours", "sts cosine")


def retrieval_data(folder: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Returns rows to score on, one per scored question and then one per other context, and the unlabelled texts."""
    rows = [row for split in read_splits(folder).values() for row in split]
    counts = Counter(str(row["question"]) for row in rows)
    scored = [
        {"question": str(row["question"]), "context": str(row["context"])}
        for row in rows
        if counts[row["question"]] == 1
    ]
    contexts = list(dict.fromkeys(str(row["context"]) for row in rows))
    others = [{"question": "", "context": context} for context in contexts]
    return scored + others, [*contexts, *(question for question, count in counts.items() if count > 1)]


class Measure:
    """Scores models by retrieval and on rated pairs, beside the dense model."""

    def __init__(self, model: Any, tokenizer: Any, rows: list[dict[str, str]], sts: Path | None) -> None:
        sets = {"retrieval": rows, **({"sts": read_rows(sts / "validation.jsonl")} if sts else {})}
        self.scorers = [Scorer(name, part, task_of(model, part), model, tokenizer) for name, part in sets.items()]
        self.references = [scorer(model)[1] for scorer in self.scorers]

    def __call__(self, model: Any) -> dict[str, float]:
        scores: dict[str, float] = {}
        for scorer, references in zip(self.scorers, self.references, strict=True):
            metrics, outputs = scorer(model)
            metrics["cosine"] = 1 - scorer.divergence(outputs, references)
            metrics["neighbours"] = scorer.neighbours(outputs, references) or 0.0
            prefix = "" if scorer.name == "retrieval" else f"{scorer.name} "
            scores |= {f"{prefix}{name}": value for name, value in metrics.items()}
        return {name: scores[name] for name in SCORES if name in scores}

    def int8(self, model: Any) -> dict[str, float]:
        with served_int8(model, self.scorers[0]) as plain:
            return self(plain)


def time_files(models: Path, dense: Any, scorer: Scorer, shape: tuple[int, int]) -> dict[str, list[float]]:
    """Returns speed-ups over the dense model in float32: median and 95 % interval by name and precision.

    Args:
        models: folder of pruned models.
        dense: the dense model.
        scorer: on whose samples files are compared with PyTorch.
        shape: samples and tokens of the batch that is timed.
    """
    inputs = random_inputs(dense, *shape)
    calls: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        for path in (None, *sorted(models.iterdir())):
            name = path.name if path else "dense-1"
            write_onnx_files(load(path)[0] if path else dense, Path(folder) / name, scorer, int8=True)
            for file, precision in ((MODEL, "float32"), (QUANTIZED, "int8")):
                session = open_session(Path(folder) / name / file)
                calls[f"{name} {precision}"] = partial(session.run, None, feeds(session, inputs))
        laps = dict(zip(calls, interleaved(list(calls.values()), torch.device("cpu"), seconds=90.0), strict=True))
    timings = {
        name: Timing.of([a / b for a, b in zip(laps["dense-1 float32"], times, strict=True)])
        for name, times in laps.items()
    }
    return {name: [timing.median, timing.low, timing.high] for name, timing in timings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=list(ENCODERS), default="MiniLM-L6")
    parser.add_argument("--retrieval", type=Path, required=True)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--texts", type=Path, help="one text a line, to calibrate and to polish on instead")
    parser.add_argument("--num-samples", type=int, default=2048)
    parser.add_argument("--methods", nargs="+", choices=list(EMBEDDER_METHODS), default=["obs"])
    parser.add_argument("--constraints", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--polish-budget", default="10x", help="empty: no polish")
    parser.add_argument("--int8", action="store_true", help="also as int8 files in ONNX Runtime")
    parser.add_argument("--models", type=Path, help="folder that keeps the models as pruned; all in it are timed")
    parser.add_argument("--shape", type=parse_shape, default=(16, 128), help="samples x tokens to time with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/embedder"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    model, tokenizer = load(ENCODERS[options.encoder][0]())
    rows, texts = retrieval_data(options.retrieval)
    texts = read_texts(options.texts) if options.texts else texts
    source = options.texts.stem if options.texts else "contexts and questions"
    task, features, batches, costs = calibration(model, tokenizer, texts, options.num_samples, options.seed)
    measure = Measure(model, tokenizer, rows, options.sts)
    file = options.output.with_suffix(".json")
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"records": []}
    records: list[dict[str, Any]] = earlier["records"]

    def write(speedups: dict[str, list[float]]) -> None:
        result: dict[str, Any] = {"device": describe_device(torch.device("cpu")), "versions": versions()}
        result |= {"shape": options.shape, "speedups": speedups, "records": records}
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def add(student: Any, method: str, constraint: float, polish: str, **cost: Any) -> None:
        for precision in ("float32", "int8") if options.int8 else ("float32",):
            scores = measure(student) if precision == "float32" else measure.int8(student)
            point = {"texts": source, "samples": len(features), "method": method}
            point |= {"constraint": constraint, "polish": polish}
            records.append({**point, "precision": precision, **cost, "scores": scores})
            write(earlier.get("speedups", {}))

    known = {tuple(r[name] for name in ("texts", "samples", "method", "constraint", "polish")) for r in records}
    if not any(r["constraint"] == 1 for r in records):
        add(model, "dense", 1.0, "")
    with TemporaryDirectory() as calibration_dir:
        points = product(dict.fromkeys(("", options.polish_budget)), options.methods, options.constraints)
        for polish, name, constraint in points:
            path = options.models / f"{name}-{constraint:g}" if options.models and not polish else None
            scored = (source, len(features), name, constraint, polish) in known
            if scored and (path is None or path.exists()):
                continue
            clock = StageTimer()
            run = Run(seed=options.seed, calibration_dir=Path(calibration_dir), clock=clock)
            inputs = None
            if polish:
                inputs = draw_polish_inputs(model, tokenizer, task, features, PolishOptions(polish_budget=polish))
            method = replace(EMBEDDER_METHODS[name], polish=bool(polish))
            pruned = Pruner(model, batches, method, polishing=inputs, run=run)(costs, constraint)
            passes = pruned.polish.forward_passes if pruned.polish else 0.0
            if path:
                save(pruned.model, tokenizer, path)
            if not scored:
                add(pruned.model, name, constraint, polish, seconds=clock.seconds.get("polish", 0.0), passes=passes)
    speedups = earlier.get("speedups", {})
    if options.models:
        speedups = time_files(options.models, model, measure.scorers[0], options.shape)
        write(speedups)
    print(to_markdown(records, speedups))


def to_markdown(records: list[dict[str, Any]], speedups: dict[str, list[float]]) -> str:
    """Returns a table with a row for each model."""
    names = [name for name in SCORES if name in records[0]["scores"]]
    lines = [f"| model | {' | '.join(names)} | speed-up |", "|---|" + "---|" * (len(names) + 1)]
    for r in records:
        label = f"{r['method']}, {100 * r['constraint']:g} %, {r['samples']:,} {r['texts']}"
        label = "dense" if r["constraint"] == 1 else label
        label += (f", polished {r['polish']}" if r["polish"] else "") + (", int8" if r["precision"] == "int8" else "")
        median, low, high = speedups.get(f"{r['method']}-{r['constraint']:g} {r['precision']}", [math.nan] * 3)
        scores = " | ".join(f"{100 * r['scores'][name]:.1f}" for name in names)
        lines.append(f"| {label} | {scores} | {median:.2f} ± {(high - low) / 2:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
