"""Measures whether a pruned embedder still finds the right passage, before and after a polish, in float32 and int8.

    python benchmarks/embedder.py --retrieval DIR --sts DIR

The files in the first folder hold the columns question and context: every question that occurs once searches all
contexts. The texts to calibrate and to polish on are the contexts and the questions that are not scored, without their
pairs; `--texts` takes the lines of another file instead. Neighbours that stay are those among questions and contexts.
The second folder holds validation.jsonl with sentence1, sentence2 and label, for rank correlation and the neighbours
that stay among these sentences. The model is all-MiniLM-L6-v2. Writes JSON and prints Markdown; records that are in the
JSON already are not measured again.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from embedding import calibration

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import minilm

from trimformer import Pruner, Run, load
from trimformer.cli.logs import set_up_logging
from trimformer.data.files import read_rows, read_texts
from trimformer.data.splits import read_splits
from trimformer.data.tasks import task_of
from trimformer.evaluation.scores import Scorer
from trimformer.evaluation.serving import on_cpu, write_served
from trimformer.export.onnx.export import QUANTIZED
from trimformer.export.onnx.serve import open_session, served
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
        with TemporaryDirectory() as folder:
            write_served(model, Path(folder) / "onnx", self.scorers[0], int8=True)
            plain = on_cpu(model)
            with served(plain, open_session(Path(folder) / "onnx" / QUANTIZED)):
                return self(plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrieval", type=Path, required=True)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--texts", type=Path, help="one text a line, to calibrate and to polish on instead")
    parser.add_argument("--num-samples", type=int, default=2048)
    parser.add_argument("--methods", nargs="+", choices=list(EMBEDDER_METHODS), default=["obs"])
    parser.add_argument("--constraints", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--polish-budget", default="10x", help="empty: no polish")
    parser.add_argument("--int8", action="store_true", help="also as int8 files in ONNX Runtime")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/embedder"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    model, tokenizer = load(minilm())
    rows, texts = retrieval_data(options.retrieval)
    texts = read_texts(options.texts) if options.texts else texts
    source = options.texts.stem if options.texts else "contexts and questions"
    task, features, batches, costs = calibration(model, tokenizer, texts, options.num_samples, options.seed)
    measure = Measure(model, tokenizer, rows, options.sts)
    file = options.output.with_suffix(".json")
    records: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["records"] if file.exists() else []

    def add(student: Any, method: str, constraint: float, polish: str, **cost: Any) -> None:
        for precision in ("float32", "int8") if options.int8 else ("float32",):
            scores = measure(student) if precision == "float32" else measure.int8(student)
            point = {"texts": source, "samples": len(features), "method": method}
            point |= {"constraint": constraint, "polish": polish}
            records.append({**point, "precision": precision, **cost, "scores": scores})
            result = {"device": describe_device(torch.device("cpu")), "versions": versions(), "records": records}
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    known = {tuple(r[name] for name in ("texts", "samples", "method", "constraint", "polish")) for r in records}
    if not any(r["constraint"] == 1 for r in records):
        add(model, "dense", 1.0, "")
    with TemporaryDirectory() as calibration_dir:
        points = product(dict.fromkeys(("", options.polish_budget)), options.methods, options.constraints)
        for polish, name, constraint in points:
            if (source, len(features), name, constraint, polish) in known:
                continue
            clock = StageTimer()
            run = Run(seed=options.seed, calibration_dir=Path(calibration_dir), clock=clock)
            inputs = None
            if polish:
                inputs = draw_polish_inputs(model, tokenizer, task, features, PolishOptions(polish_budget=polish))
            method = replace(EMBEDDER_METHODS[name], polish=bool(polish))
            pruned = Pruner(model, batches, method, polishing=inputs, run=run)(costs, constraint)
            passes = pruned.polish.forward_passes if pruned.polish else 0.0
            add(pruned.model, name, constraint, polish, seconds=clock.seconds.get("polish", 0.0), passes=passes)
    print(to_markdown(records))


def to_markdown(records: list[dict[str, Any]]) -> str:
    """Returns a table with a row for each model."""
    names = [name for name in SCORES if name in records[0]["scores"]]
    lines = [f"| model | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for r in records:
        label = f"{r['method']}, {100 * r['constraint']:g} %, {r['samples']:,} {r['texts']}"
        label = "dense" if r["constraint"] == 1 else label
        label += (f", polished {r['polish']}" if r["polish"] else "") + (", int8" if r["precision"] == "int8" else "")
        lines.append(f"| {label} | " + " | ".join(f"{100 * r['scores'][name]:.1f}" for name in names) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
