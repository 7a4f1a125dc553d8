"""Files of the dense and the pruned model for other runtimes, for `prune --export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trimformer.costs.random_inputs import random_inputs, typical_sample
from trimformer.evaluation.gguf_files import compared_files
from trimformer.evaluation.onnx_files import compare_onnx_files, on_cpu, write_onnx_files
from trimformer.evaluation.scores import Scorer
from trimformer.export.gguf.export import export_gguf
from trimformer.options.choices import Quantization
from trimformer.options.output import OutputOptions
from trimformer.results import PruningResult
from trimformer.session.inputs import Inputs


class ExportedFiles(Protocol):
    """The dense model's files, to which those of the pruned model are added."""

    def add(self, result: PruningResult, directory: Path) -> None:
        """Writes the pruned model's files into a directory and compares all files in the result."""


def export_dense(inputs: Inputs, folder: Path, output: OutputOptions, batch_size: int, name: str) -> ExportedFiles:
    """Exports the dense model, to the files that were asked for.

    Args:
        inputs: the dense model, its processor, its task and the evaluation sets.
        folder: where the dense model's files are written.
        output: names the files.
        batch_size: for the scores.
        name: of the pruned model, for people.

    Raises:
        TrimformerError: the model cannot be exported.
    """
    if output.gguf:
        return GgufFiles(inputs, folder, output.gguf, name)
    return OnnxFiles(inputs, folder, output.onnx == "onnx-int8", batch_size)


class GgufFiles:
    """Exports both models to GGUF and compares the files in llama.cpp.

    Args:
        inputs: the dense model and its tokenizer.
        folder: where the dense model's files are written, and removed once they are compared.
        types: of the files.
        name: of the pruned model, for people.

    Raises:
        TrimformerError: the model cannot be exported.
    """

    def __init__(self, inputs: Inputs, folder: Path, types: Sequence[Quantization], name: str) -> None:
        self._dense, self._types, self._name = on_cpu(inputs.model), types, name
        files = export_gguf(self._dense, inputs.processor, folder, types, dense=self._dense)
        self._compared = compared_files("dense", files)
        for file in files.files:
            file.path.unlink()

    def add(self, result: PruningResult, directory: Path) -> None:
        """Writes the pruned model's files to `gguf` in a directory and compares all files in the result."""
        folder = directory / "gguf"
        folder.mkdir()
        model = on_cpu(result.model)
        files = export_gguf(model, result.processor, folder, self._types, name=self._name, dense=self._dense)
        result.gguf = [*self._compared, *compared_files("pruned", files)]
        result.gguf_notes = files.notes


class OnnxFiles:
    """Exports both models to ONNX and compares the files.

    Args:
        inputs: the dense model, its processor, its task and the evaluation sets.
        folder: where the dense model's files are written.
        int8: also write int8 files.
        batch_size: for the scores.

    Raises:
        TrimformerError: the model cannot be exported.
    """

    def __init__(self, inputs: Inputs, folder: Path, int8: bool, batch_size: int) -> None:
        name, rows = next(iter(inputs.eval_dataset.items()))
        assert inputs.task is not None
        self._scorer = Scorer(name, rows, inputs.task, inputs.model, inputs.processor, batch_size)
        self._model, self._dense, self._int8 = inputs.model, folder / "onnx", int8
        write_onnx_files(self._model, self._dense, self._scorer, int8=int8)

    def add(self, result: PruningResult, directory: Path) -> None:
        """Writes the pruned model's files to `onnx` in a directory and compares all files in the result."""
        assert result.latency is not None
        write_onnx_files(result.model, directory / "onnx", self._scorer, int8=self._int8)
        models = {"dense": (self._model, self._dense), "pruned": (result.model, directory / "onnx")}
        example = typical_sample(self._scorer.features)
        inputs = random_inputs(self._model, result.latency.batch_size, result.latency.seq_len, example)
        result.serving = compare_onnx_files(models, self._scorer, inputs)
