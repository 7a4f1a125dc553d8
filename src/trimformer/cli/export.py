"""`trimformer export`: writes a model directory, dense or pruned, as files for ONNX Runtime, OpenVINO or llama.cpp."""

import argparse
import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.companions import copy_companions
from trimformer.checkpoints.save_load import load
from trimformer.cli.flags.export import has_data, quantizations
from trimformer.cli.option_flags import read_options
from trimformer.cli.task_data import load_task_data
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing, interleaved
from trimformer.data.batches import make_batches, sample_indices
from trimformer.data.outputs import find_problem
from trimformer.evaluation.onnx_files import MAX_COMPARED_SAMPLES, feeds
from trimformer.export.gguf.export import check_gguf, export_gguf
from trimformer.export.onnx.export import check_exportable, check_onnx, write_files
from trimformer.export.onnx.serve import open_session as onnx_session
from trimformer.export.openvino.export import check_openvino, write_openvino
from trimformer.export.openvino.serve import open_session as openvino_session
from trimformer.export.written_files import Written
from trimformer.models import max_positions
from trimformer.models.layer_calls import Batch, forward, model_inputs
from trimformer.options.data import DataOptions
from trimformer.reporting.cards.card import export_card
from trimformer.reporting.cards.source import CARD, last_part
from trimformer.utils.outputs import lock_output, write_directory

SHAPE = (32, 32)  # batch size and length that are timed


def run(arguments: argparse.Namespace) -> None:
    """Writes the exported directory and prints the comparison with PyTorch."""
    if arguments.format == "gguf":
        check_gguf(not arguments.unverified)
    else:
        (check_onnx if arguments.format == "onnx" else check_openvino)()
    with lock_output(arguments.output):
        summary = _write_gguf(arguments) if arguments.format == "gguf" else _write(arguments)
    print(f"{summary}\n\nwritten to {arguments.output}")


def _write(arguments: argparse.Namespace) -> str:
    """Writes the directory and returns the text to print."""
    model, processor = load(arguments.model, model_type=arguments.model_type)
    check_exportable(model)
    model.float().eval()
    origin = "the data" if has_data(arguments) else "random inputs"
    if has_data(arguments):
        batches, calibration = _data(model, processor, arguments)
    else:
        batches, calibration = random_batches(model, processor), []
    with write_directory(arguments.output) as directory:
        _write_beside(model, processor, directory)
        folder = directory / arguments.format
        folder.mkdir()
        if arguments.format == "onnx":
            files = write_files(model, folder, batches, int8=arguments.int8, opset=arguments.opset)
            sessions = [onnx_session(file.path) for file in files]
        else:
            files = write_openvino(model, folder, batches, int8=arguments.int8, calibration=calibration)
            sessions = [openvino_session(file.path) for file in files]
        table = format_files(model, files, sessions, _like(model, processor, *_shape(model)))
        names, command = [file.path.name for file in files], ["trimformer", *arguments.words]
        summary = f"compared with PyTorch on {origin}\n\n{table}"
        card = export_card(model, last_part(arguments.output), names, summary, command, arguments.format)
        card.save(directory / CARD)
    return summary


def _write_gguf(arguments: argparse.Namespace) -> str:
    """Writes the directory of GGUF files, which need nothing beside them, and returns the text to print."""
    model, processor = load(arguments.model, model_type=arguments.model_type)
    model.float().eval()
    name = last_part(arguments.output)
    with write_directory(arguments.output) as directory:
        folder = directory / arguments.format
        folder.mkdir()
        kinds = quantizations(arguments.quantize)
        written = export_gguf(model, processor, folder, kinds, verified=not arguments.unverified, name=name)
        names, command = [file.path.name for file in written.files], ["trimformer", *arguments.words]
        export_card(model, name, names, str(written), command, "gguf").save(directory / CARD)
    return str(written)


def _data(
    model: PreTrainedModel, processor: Any, arguments: argparse.Namespace
) -> tuple[Sequence[Batch], Sequence[Batch]]:
    """Returns batches to compare on and batches of training rows to calibrate on, where int8 needs them."""
    options, calibrates = read_options(DataOptions, arguments), arguments.format != "onnx" and arguments.int8
    task, train, validation = load_task_data(options, model, processor, need_train=calibrates)
    rows = next(iter(validation.values()))

    def batches(chosen: Sequence[Any]) -> Sequence[Batch]:
        return make_batches(task.encode(chosen, processor, model.config), processor, 32)

    compared = batches([rows[i] for i in range(min(MAX_COMPARED_SAMPLES, len(rows)))])
    if not calibrates:
        return compared, []
    return compared, batches([train[i] for i in sample_indices(len(train), min(MAX_COMPARED_SAMPLES, len(train)), 0)])


def random_batches(model: PreTrainedModel, processor: Any) -> list[Batch]:
    """Returns two random batches of different shapes; one sample of each is padded."""
    find_problem(model)
    length = _shape(model)[1]
    batches: list[Batch] = []
    for samples, tokens in ((4, length), (3, max(1, length // 2))):
        batch = _like(model, processor, samples, tokens)
        if "attention_mask" in batch:
            width = batch["attention_mask"].shape[-1]
            batch["attention_mask"][1, ..., max(1, width // 2) :] = 0
        batches.append(batch)
    return batches


def _shape(model: PreTrainedModel) -> tuple[int, int]:
    return SHAPE[0], min(SHAPE[1], max_positions(model.config, SHAPE[1]))


def _like(model: PreTrainedModel, processor: Any, samples: int, tokens: int) -> dict[str, Tensor]:
    """Returns random inputs with the names that the processor gives."""
    batch = random_inputs(model, samples, tokens)
    named = "token_type_ids" in getattr(processor, "model_input_names", ())
    if "input_ids" in batch and named and "token_type_ids" in inspect.signature(model.forward).parameters:
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    sounds = batch.get("input_values")
    extractor = getattr(processor, "feature_extractor", processor)
    # With a mask, the pooling of x-vectors goes through the samples one by one: a file would take one number of them.
    has_mask = getattr(extractor, "return_attention_mask", False) and not type(model).__name__.endswith("ForXVector")
    if sounds is not None and has_mask:
        batch["attention_mask"] = torch.ones(sounds.shape, dtype=torch.long)
    return batch


def _write_beside(model: PreTrainedModel, processor: Any, directory: Path) -> None:
    """Writes the config, without our entry, and the files of the processor and of sentence-transformers."""
    config = copy.deepcopy(model.config)
    for entry in ("quantization_config", "auto_map"):
        vars(config).pop(entry, None)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    processor.save_pretrained(directory)
    copy_companions(model, directory)


def format_files(model: PreTrainedModel, files: Sequence[Written], sessions: Sequence[Any], inputs: Batch) -> str:
    """A line for PyTorch and one for each file, timed in turns."""
    given = model_inputs(inputs)
    calls: list[Callable[[], Any]] = [partial(forward, model, given)]
    calls += [partial(session.run, None, feeds(session, given)) for session in sessions]
    laps = interleaved(calls, model.device)
    kind = "squared error" if find_problem(model) == "regression" else "1 - cosine"
    kind = kind if find_problem(model) in ("regression", "embedding") else "KL"
    shape = f"ms, {len(next(iter(given.values())))} samples"
    width = max(22, *(len(file.path.name) for file in files))
    lines = [f"{'':{width}} {'MB':>7} {'difference':>11} {kind:>13} {shape:>16} {'speed-up':>9}"]
    rows = [("PyTorch", None), *((file.path.name, file) for file in files)]
    for (name, file), times in zip(rows, laps, strict=True):
        ratio = Timing.of([a / b for a, b in zip(laps[0], times, strict=True)]).median
        figures = f"{file.size / 1e6:7.1f} {file.difference:11.1e} {max(0.0, file.divergence):13.1e}" if file else ""
        lines.append(f"{name:{width}} {figures:33} {Timing.of(times).median:16.2f} {ratio:8.2f}x")
    return "\n".join(lines)
