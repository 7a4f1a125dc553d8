"""Measures pruning and int8 in ONNX Runtime: scores, divergence, size and latency, all timed in turn.

    python benchmarks/serving.py                                       # an hour or so on two cores
    python benchmarks/serving.py --tasks embedder reranker --sts DIR   # with Spearman on rated pairs of DIR
    python benchmarks/serving.py --models OUT                          # reuses OUT/<task>/0.5, ...
    python benchmarks/serving.py --openvino                            # OpenVINO files of the same models too

MiniLM-L6 is a classifier of movie reviews, a tagger of names in tweets, an embedder, and a CrossEncoder that
sentence-transformers trains on rated pairs (with --sts only). Each is pruned to several budgets and exported by the
functions of `trimformer export` in float32 and int8. Speed-ups are over the dense model in float32 by the same
exporter; --plain adds the dense model by `torch.onnx.export` and ONNX Runtime's own quantization. Writes JSON and
Markdown.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import CACHE, finetuned, minilm, movie_reviews, tweets
from latency import parse_shape

from trimformer.checkpoints.save_load import load, load_model, save
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost_tables import linear_costs
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing, interleaved
from trimformer.data.batches import make_batches, mean_length, sample_indices
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import task_of
from trimformer.evaluation.onnx_files import MAX_COMPARED_SAMPLES, examples, feeds, write_onnx_files
from trimformer.evaluation.scores import Scorer
from trimformer.export.onnx.export import MODEL, QUANTIZED
from trimformer.export.onnx.serve import open_session, running_in
from trimformer.export.onnx.trace import TupleModel
from trimformer.export.openvino.export import check_openvino, quantize, write_openvino
from trimformer.export.openvino.serve import open_session as openvino_session
from trimformer.models import find_sublayers
from trimformer.options.methods import METHODS
from trimformer.pruner import Pruner
from trimformer.utils.environment import describe_device, versions

TASKS = ("classifier", "tagger", "embedder", "reranker")

DISTANCES = {"embedder": "cosine to dense", "reranker": "squared error to dense"}


class Bench:
    """A task's dense model and data."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        if name == "classifier":
            data = movie_reviews()
            checkpoint = finetuned("movie-reviews", data, epochs=1, label_column="label")
        elif name == "tagger":
            data = tweets()
            checkpoint = finetuned("tweets", data, epochs=4)
        elif name == "reranker":
            data = options.sts
            checkpoint = reranker(data)
        else:
            data, checkpoint = options.sts or movie_reviews(), minilm()
        self.model, self.processor = load(checkpoint)
        self.train, validation = find_splits(read_splits(data))
        rows = next(iter(validation.values()))
        columns: dict[str, Any] = {"label_column": "label"} if name == "classifier" else {}
        if name == "embedder":  # calibrated on single texts, scored on rated pairs if there are any
            names = ("sentence1", "sentence2") if options.sts else ("sentence",)
            self.train = [{"text": text} for text in sorted({str(row[n]) for row in self.train for n in names})]
            rows = rows if options.sts else [{"text": row["sentence"]} for row in rows]
        self.task = task_of(self.model, self.train, **columns)
        self.scorer = Scorer("validation", rows, task_of(self.model, rows, **columns), self.model, self.processor)

    def models(self) -> Iterator[tuple[str, PreTrainedModel]]:
        """Yields the name and the model: the dense one, then one for each constraint."""
        yield "dense", self.model
        folder = self.options.models / self.name if self.options.models else None
        pruner = None
        for constraint in self.options.constraints:
            path = folder / f"{constraint:g}" if folder else None
            if path and path.is_dir():
                student = load_model(path)
            else:
                if pruner is None:
                    chosen = sample_indices(len(self.train), self.options.num_samples, 0)
                    features = self.task.encode([self.train[i] for i in chosen], self.processor, self.model.config)
                    pruner = Pruner(self.model, make_batches(features, self.processor, 32), METHODS["obs"])
                    costs = linear_costs(find_sublayers(self.model), "mac", mean_length(features))
                student = pruner(costs, constraint).model
                if path:
                    save(student, self.processor, path)
            yield f"{100 * constraint:g} %", student


def reranker(data: Path) -> Path:
    """Trains a CrossEncoder of MiniLM-L6 on the rated pairs (0 to 5) of a folder, once, and returns its directory."""
    path = CACHE / "MiniLM-L6-reranker"
    if not path.is_dir():
        from datasets import Dataset
        from sentence_transformers import CrossEncoder
        from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
        from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

        print("training a CrossEncoder, once ...", flush=True)
        torch.manual_seed(0)
        model = CrossEncoder(str(minilm()), num_labels=1, max_length=128, device="cpu")
        rows = [
            {"sentence1": row["sentence1"], "sentence2": row["sentence2"], "label": float(row["label"]) / 5}
            for row in read_splits(data)["train"]
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = CrossEncoderTrainingArguments(
                folder, num_train_epochs=3, per_device_train_batch_size=32, learning_rate=1e-4, warmup_steps=0.1,
                report_to="none", save_strategy="no", seed=0,
            )  # fmt: skip
            CrossEncoderTrainer(model, arguments, Dataset.from_list(rows), loss=BinaryCrossEntropyLoss(model)).train()
        model.save_pretrained(str(path))
    return path


def write_plain_export(model: PreTrainedModel, folder: Path) -> None:
    """Writes files by PyTorch's exporter and ONNX Runtime's quantization alone, under the usual names."""
    folder.mkdir()
    inputs = random_inputs(model, 4, 16)
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    asked = TupleModel(model, inputs).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(asked, kwargs={"inputs": inputs}, f=folder / MODEL, input_names=list(inputs),
                          dynamic_shapes={"inputs": dict.fromkeys(inputs, axes)}, output_names=asked.output_names,
                          external_data=False, dynamo=True, verbose=False)  # fmt: skip
    logging.disable(logging.WARNING)  # it recommends a step that changes nothing here
    quantize_dynamic(folder / MODEL, folder / QUANTIZED, per_channel=True, reduce_range=True,
                     weight_type=QuantType.QInt8)  # fmt: skip
    logging.disable(logging.NOTSET)


def openvino_files(bench: Bench, model: PreTrainedModel, folder: Path) -> list[tuple[str, Path]]:
    """Writes OpenVINO files (float32, static int8, int8 weights) and returns the suffix of the name and the path."""
    folder.mkdir()
    chosen = sample_indices(len(bench.train), min(MAX_COMPARED_SAMPLES, len(bench.train)), 0)
    features = bench.task.encode([bench.train[i] for i in chosen], bench.processor, bench.model.config)
    calibration, compared = make_batches(features, bench.processor, 32), examples(bench.scorer.batches)
    files = [w.path for w in write_openvino(model, folder, compared, int8=True, calibration=calibration)]
    files.append(quantize(files[0], folder / "weights.xml", model, compared).path)
    return list(zip(("", " + int8", " + int8 weights"), files, strict=True))


def measure(bench: Bench, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a record for each file: scores, size, and milliseconds by shape with all files timed in turn."""
    records: list[dict[str, Any]] = []
    sessions, references = [], None
    for name, model in bench.models():
        place = folder / bench.name / name.replace(" %", "")
        write_onnx_files(model, place, bench.scorer, int8=True)
        folders = [(name, place)]
        if options.plain and name == "dense":
            write_plain_export(model, place / "plain")
            folders.append((f"{name}, plain export", place / "plain"))
        files: list[tuple[str, Path, Callable[..., Any]]]
        files = [(k + s, p / f, open_session) for k, p in folders for f, s in ((MODEL, ""), (QUANTIZED, " + int8"))]
        if options.openvino:
            named_files = openvino_files(bench, model, place / "openvino")
            files += [(f"{name}, OpenVINO{suffix}", path, openvino_session) for suffix, path in named_files]
        for kind, path, opened in files:
            session = opened(path, options.threads)
            with running_in(model, session):
                scores, outputs = bench.scorer(model, kind)
            references = references or outputs
            size = sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.is_file())
            record: dict[str, Any] = {"task": bench.name, "name": kind, "mb": size / 1e6, "scores": scores}
            record["divergence"] = bench.scorer.divergence(outputs, references)
            if bench.name == "embedder":
                record["neighbours"] = bench.scorer.neighbours(outputs, references)
            records.append(record | {"ms": {}})
            sessions.append(session)
    for batch, length in options.shapes:
        inputs = random_inputs(bench.model, batch, length)
        calls: list[Callable[[], Any]] = [partial(s.run, None, feeds(s, inputs)) for s in sessions]
        laps = interleaved(calls, torch.device("cpu"), seconds=options.seconds)
        for record, times in zip(records, laps, strict=True):
            ratio = Timing.of([a / b for a, b in zip(laps[0], times, strict=True)])
            latency = {"ms": Timing.of(times).median, "speedup": [ratio.median, ratio.low, ratio.high]}
            record["ms"][f"{batch}x{length}"] = latency
    return records


def to_markdown(records: list[dict[str, Any]]) -> str:
    """Returns the table of one task."""
    shapes = list(records[0]["ms"])
    names = [name for name in records[0]["scores"] if not name.endswith("_ci95")]
    metric = "spearman" if "spearman" in names else next(iter(names), None)
    embeds = "neighbours" in records[0]
    distance = DISTANCES.get(records[0]["task"], "KL to dense")
    head = [records[0]["task"], *([metric] if metric else []), distance]
    head += [*(["nearest that stay"] if embeds else []), "MB", *(f"{shape}: ms, speed-up" for shape in shapes)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for r in records:
        apart = f"{1 - r['divergence']:.3f}" if embeds else f"{max(0.0, r['divergence']):.4f}"
        cells = [r["name"], *([f"{100 * r['scores'][metric]:.1f}"] if metric else []), apart]
        cells += [*([f"{100 * r['neighbours']:.1f} %"] if embeds else []), f"{r['mb']:.1f}"]
        for shape in shapes:
            speedup, low, high = r["ms"][shape]["speedup"]
            cells.append(f"{r['ms'][shape]['ms']:.1f}, {speedup:.2f} ± {(high - low) / 2:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS[:3])
    parser.add_argument("--sts", type=Path, help="folder of train.jsonl and validation.jsonl with sentence1, "
                        "sentence2 and label, for the reranker, and the embedder; else movie reviews")  # fmt: skip
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=[(32, 32), (1, 32), (8, 128)])
    parser.add_argument("--num-samples", type=int, default=1024)
    parser.add_argument("--models", type=Path, help="folder of pruned models, filled where one is missing")
    parser.add_argument("--plain", action="store_true", help="add the dense model by PyTorch's exporter alone")
    parser.add_argument("--openvino", action="store_true", help="add the files of `export --format openvino`")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of the runtimes")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each shape")
    parser.add_argument("--output", type=Path, default=Path("outputs/serving"), help="without suffix")
    options = parser.parse_args()
    if "reranker" in options.tasks and not options.sts:
        parser.error("the reranker is trained on rated pairs; give --sts")
    if options.openvino:
        check_openvino()
    set_up_logging()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    tables, records = [], []
    for name in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            of_task = measure(Bench(name, options), Path(folder), options)
        tables.append(to_markdown(of_task))
        records += of_task
    result = {"device": describe_device(torch.device("cpu")), "threads": options.threads, **versions()}
    result |= {"onnxruntime": onnxruntime.__version__}
    if options.openvino:
        result |= {name: version(name) for name in ("openvino", "nncf")}
    result |= {"records": records}
    options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    options.output.with_suffix(".md").write_text("\n\n".join(tables) + "\n")
    print(f"{result['device']}, ONNX Runtime {result['onnxruntime']}\n\n" + "\n\n".join(tables))


if __name__ == "__main__":
    main()
