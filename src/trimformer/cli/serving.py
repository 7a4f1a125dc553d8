"""ONNX files of the dense and the pruned model, for `prune --export`."""

from pathlib import Path

from trimformer.costs.random_inputs import random_inputs
from trimformer.evaluation.scores import Scorer
from trimformer.evaluation.serving import serve, write_served
from trimformer.results import PruningResult
from trimformer.session.inputs import Inputs


class Serving:
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
        write_served(self._model, self._dense, self._scorer, int8=int8)

    def add(self, result: PruningResult, directory: Path) -> None:
        """Writes the pruned model's files to `onnx` in a directory and compares all files in the result."""
        assert result.latency is not None
        write_served(result.model, directory / "onnx", self._scorer, int8=self._int8)
        models = {"dense": (self._model, self._dense), "pruned": (result.model, directory / "onnx")}
        inputs = random_inputs(self._model, result.latency.batch_size, result.latency.seq_len)
        result.serving = serve(models, self._scorer, inputs)
