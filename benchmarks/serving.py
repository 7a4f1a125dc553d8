"""What pruning and eight bits give in ONNX Runtime: accuracy, divergence, size and latency, all timed in turns.

    python benchmarks/serving.py                                # an hour or so on two cores, most of it pruning
    python benchmarks/serving.py --models OUT --plain           # reuses OUT/0.5, ...; files without rewrites too

MiniLM-L6, fine-tuned on movie reviews, is pruned to several budgets; each model is exported by `trimformer export`'s
functions in float32 and in eight bits. Speed-ups are over the dense model as `torch.onnx.export` writes it. Writes
JSON and Markdown.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import finetuned, movie_reviews
from latency import parse_shape

from trimformer.arch import find_sublayers
from trimformer.batches.calibration import make_batches, mean_length, sample_indices
from trimformer.batches.data import find_splits, read_splits
from trimformer.batches.output import find_problem
from trimformer.batches.tasks import infer_task
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost import linear_costs
from trimformer.costs.measure import random_inputs
from trimformer.costs.timing import Timing, interleaved
from trimformer.environment import describe_device, versions
from trimformer.methods import METHODS
from trimformer.onnx.export import export_onnx, quantize
from trimformer.onnx.serve import open_session, served
from trimformer.onnx.trace import Asked
from trimformer.pruner import Pruner
from trimformer.shrinking.checkpoint import load, load_model, save
from trimformer.verify.evaluation import Scorer

BASE = "dense, plain export"


class Bench:
    """The dense model, its task and its data."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, data = options, movie_reviews()
        self.model, self.tokenizer = load(finetuned("movie-reviews", data, epochs=1, label_column="label"))
        self.train, validation = find_splits(read_splits(data))
        rows = next(iter(validation.values()))
        self.task = infer_task(find_problem(self.model), self.model.config, rows, label_column="label")
        self.scorer = Scorer("validation", rows, self.task, self.model, self.tokenizer)
        self.scores, self.references = self.scorer(self.model)

    def models(self) -> Iterator[tuple[float, PreTrainedModel]]:
        """(share of the MACs, model): the dense one, and one for each constraint."""
        yield 1.0, self.model
        folder, pruner = self.options.models, None
        for constraint in self.options.constraints:
            path = folder / f"{constraint:g}" if folder else None
            if path and path.is_dir():
                yield constraint, load_model(path)
                continue
            if pruner is None:
                count = self.options.num_samples
                chosen = [self.train[i] for i in sample_indices(len(self.train), count, 0)]
                features = self.task.encode(chosen, self.tokenizer, self.model.config)
                pruner = Pruner(self.model, make_batches(features, self.tokenizer, 32), METHODS["obs"])
                costs = linear_costs(find_sublayers(self.model), "mac", mean_length(features))
            student = pruner(costs, constraint).model
            if path:
                save(student, self.tokenizer, path)
            yield constraint, student

    def files(self, folder: Path) -> Iterator[tuple[str, float, bool, Path, PreTrainedModel]]:
        """(name, share of the MACs, whether in eight bits, file, model)."""
        for share, model in self.models():
            name = "dense" if share == 1 else f"{100 * share:g} %"
            if share == 1 or self.options.plain:
                plain = folder / f"{share:g}-plain.onnx"
                plainly(model, plain)
                yield f"{name}, plain export", share, False, plain, model
            if self.options.plain:
                path = plain.with_suffix(".int8.onnx")
                logging.disable(logging.WARNING)  # it asks for a step that changes nothing here
                quantize_dynamic(plain, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
                logging.disable(logging.NOTSET)
                yield f"{name}, plain export, int8", share, True, path, model
            path, examples = folder / f"{share:g}.onnx", self.scorer.batches[::8]
            export_onnx(model, path, examples)
            yield name, share, False, path, model
            quantize(path, path.with_suffix(".int8.onnx"), model, examples)
            yield f"{name}, int8", share, True, path.with_suffix(".int8.onnx"), model


def plainly(model: PreTrainedModel, path: Path) -> None:
    """What PyTorch's exporter writes by itself."""
    inputs = random_inputs(model, 4, 16)
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Asked(model, inputs).eval(), kwargs={"inputs": inputs}, f=path, input_names=list(inputs),
                          dynamic_shapes={"inputs": dict.fromkeys(inputs, axes)}, output_names=["logits"],
                          external_data=False, dynamo=True, verbose=False)  # fmt: skip


def measure(bench: Bench, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per file: scores and size; then milliseconds by shape, all files in turns."""
    records, sessions = [], []
    for name, share, is_int8, path, model in bench.files(folder):
        session = open_session(path, options.threads)
        with served(model, session):
            scores, outputs = bench.scorer(model, name)
        record = {"name": name, "share": share, "int8": is_int8, "mb": path.stat().st_size / 1e6, "ms": {}}
        record |= {"accuracy": scores["accuracy"], "ci95": scores.get("accuracy_ci95")}
        record["divergence"] = bench.scorer.divergence(outputs, bench.references)
        records.append(record)
        sessions.append(session)
    base = [record["name"] for record in records].index(BASE)
    for batch, length in options.shapes:
        inputs = random_inputs(bench.model, batch, length)
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        calls = []
        for session in sessions:
            feeds = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
            calls.append(partial(session.run, None, feeds))
        laps = interleaved(calls, torch.device("cpu"), seconds=options.seconds)
        for record, times in zip(records, laps, strict=True):
            ratio = Timing.of([a / b for a, b in zip(laps[base], times, strict=True)])
            seen = {"ms": Timing.of(times).median, "speedup": [ratio.median, ratio.low, ratio.high]}
            record["ms"][f"{batch}x{length}"] = seen
    return records


def to_markdown(records: list[dict[str, Any]]) -> str:
    shapes = list(records[0]["ms"])
    lines = ["| file | accuracy | KL to dense | MB | " + " | ".join(f"{s}: ms, speed-up" for s in shapes) + " |"]
    lines.append("|---" * (4 + len(shapes)) + "|")
    for r in records:
        cells = []
        for shape in shapes:
            seen = r["ms"][shape]
            speedup, low, high = seen["speedup"]
            cells.append(f"{seen['ms']:.1f}, {speedup:.2f} ± {(high - low) / 2:.2f}")
        lines.append(
            f"| {r['name']} | {100 * r['accuracy']:.1f} | {max(0.0, r['divergence']):.4f} | {r['mb']:.1f} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=[(32, 32), (1, 32), (8, 128)])
    parser.add_argument("--num-samples", type=int, default=1024)
    parser.add_argument(
        "--models", type=Path, help="folder of pruned models by constraint, filled where one is missing"
    )
    parser.add_argument("--plain", action="store_true", help="each model by torch.onnx.export alone too, and its file "
                        "by ONNX Runtime's own quantization")  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of ONNX Runtime")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each shape")
    parser.add_argument("--output", type=Path, default=Path("outputs/serving"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        records = measure(Bench(options), Path(folder), options)
    result = {"device": describe_device(torch.device("cpu")), "threads": options.threads, **versions()}
    result |= {"onnxruntime": onnxruntime.__version__, "records": records}
    options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(to_markdown(records) + "\n")
    print(f"{result['device']}, ONNX Runtime {result['onnxruntime']}\n\n{to_markdown(records)}")


if __name__ == "__main__":
    main()
