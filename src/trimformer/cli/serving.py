"""What `prune --export` adds: ONNX files of both models, and how they compare."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimformer.costs.measure_latency import random_inputs
from trimformer.evaluation.scores import Scorer
from trimformer.evaluation.serving import serve, write_served
from trimformer.results import PruningResult


class Serving:
    """ONNX files of both models and how they compare.

    Args:
        model: dense.
        processor: its tokenizer or processor.
        folder: for the dense model's files.
        int8: whether there are files in eight bits too.
        options: of `prune`.

    Raises:
        TrimformerError: the model cannot be exported.
    """

    def __init__(self, model: Any, processor: Any, folder: Path, int8: bool, options: Mapping[str, Any]) -> None:
        name, rows = next(iter(options["eval_dataset"].items()))
        self._scorer = Scorer(name, rows, options["task"], model, processor, options["batch_size"])
        self._model, self._dense, self._int8 = model, folder / "onnx", int8
        write_served(model, self._dense, self._scorer, int8=int8)

    def add(self, result: PruningResult, directory: Path) -> None:
        """Writes the pruned model's files to the folder `onnx` of a directory, and compares all."""
        assert result.latency is not None
        write_served(result.model, directory / "onnx", self._scorer, int8=self._int8)
        models = {"dense": (self._model, self._dense), "pruned": (result.model, directory / "onnx")}
        inputs = random_inputs(self._model, result.latency.batch_size, result.latency.seq_len)
        result.serving = serve(models, self._scorer, inputs)
