"""Files of OpenVINO behind the interface of ONNX Runtime's sessions, so that whatever runs these runs those."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trimformer.errors import one_sentence


class Value(NamedTuple):
    """An input or an output."""

    name: str


class Session:
    """A compiled model.

    Args:
        compiled: by OpenVINO.
    """

    def __init__(self, compiled: Any) -> None:
        self._outputs = list(compiled.outputs)
        self._inputs = [Value(value.any_name) for value in compiled.inputs]
        self._request = compiled.create_infer_request()

    def get_inputs(self) -> list[Value]:
        return self._inputs

    def get_outputs(self) -> list[Value]:
        return [Value(value.any_name) for value in self._outputs]

    def run(self, names: None, feeds: Mapping[str, Any]) -> list[Any]:
        """All outputs, as arrays."""
        found = self._request.infer(dict(feeds), share_inputs=True)
        return [found[value] for value in self._outputs]


def open_session(path: str | Path, threads: int | None = None) -> Session:
    """A file on the CPU, computed in float32 even where the CPU has bfloat16, which OpenVINO would take by itself.

    Args:
        path: of the `.xml`.
        threads: None: as many as PyTorch uses.

    Raises:
        TrimformerError: the file is missing, or none that this version runs.
    """
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads or torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    with one_sentence(f"OpenVINO {openvino.__version__} cannot load '{path}'"):
        return Session(openvino.Core().compile_model(str(path), "CPU", options))
