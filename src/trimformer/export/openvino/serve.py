"""Runs OpenVINO files behind the interface of ONNX Runtime's sessions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trimformer.errors import one_sentence


class Value(NamedTuple):
    """An input or output of a session."""

    name: str


class Session:
    """A compiled model with the interface of `onnxruntime.InferenceSession`.

    Args:
        compiled: OpenVINO's compiled model.
    """

    def __init__(self, compiled: Any) -> None:
        self._outputs = list(compiled.outputs)
        self._inputs = [Value(value.any_name) for value in compiled.inputs]
        self._request = compiled.create_infer_request()

    def get_inputs(self) -> list[Value]:
        """Returns the inputs."""
        return self._inputs

    def get_outputs(self) -> list[Value]:
        """Returns the outputs."""
        return [Value(value.any_name) for value in self._outputs]

    def run(self, names: None, feeds: Mapping[str, Any]) -> list[Any]:
        """Runs the model and returns all outputs as arrays."""
        outputs = self._request.infer(dict(feeds), share_inputs=True)
        return [outputs[value] for value in self._outputs]


def open_session(path: str | Path) -> Session:
    """Opens a file on the CPU in float32; OpenVINO would choose bfloat16 on CPUs that have it.

    Args:
        path: of the `.xml`.

    Raises:
        TrimformerError: the file is missing or this version cannot run it.
    """
    import openvino

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    with one_sentence(f"OpenVINO {openvino.__version__} cannot load '{path}'"):
        return Session(openvino.Core().compile_model(str(path), "CPU", options))
