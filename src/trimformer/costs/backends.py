"""What runs a model: eager PyTorch, torch.compile, or ONNX Runtime."""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from trimformer.errors import TrimformerError, one_sentence

Backend = Literal["eager", "compile", "onnx"]


def check_backend(backend: str, device: torch.device) -> None:
    """Raises:
    TrimformerError: the backend is unknown or cannot run here.
    """
    if backend not in get_args(Backend):
        raise TrimformerError(f"backend '{backend}' is unknown; known are {', '.join(get_args(Backend))}")
    if backend == "onnx":
        missing = [name for name in ("onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise TrimformerError(f"backend 'onnx' needs {' and '.join(missing)}: pip install 'trimformer[onnx]'")
        if device.type != "cpu":
            raise TrimformerError(f"backend 'onnx' is timed on the CPU only, not on '{device}'")


def prepare(module: nn.Module, inputs: Mapping[str, Tensor], backend: Backend) -> Callable[[], Any]:
    """A call that runs the module on these inputs as the backend does it.

    Args:
        module: in evaluation mode, on the device of the inputs.
        inputs: keyword arguments of its forward.
        backend: what runs it.
    """
    if backend == "onnx":
        return _onnx(module, inputs)
    if backend == "compile":
        return _compiled(module, inputs)
    return lambda: module(**inputs)


def _compiled(module: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
    def run() -> Any:
        return module(**inputs)

    # Dynamo counts recompilations by code object: a module of another width is new code, not another shape.
    fresh = FunctionType(run.__code__.replace(), run.__globals__, closure=run.__closure__)
    call: Callable[[], Any] = torch.compile(fresh, dynamic=False)
    return call


def _onnx(module: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
    import onnxruntime

    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with one_sentence("the model cannot be run by ONNX Runtime"), tempfile.TemporaryDirectory() as folder:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, kwargs=dict(inputs), f=f"{folder}/model.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    feeds = {name: inputs[name].numpy() for name in names}
    return lambda: session.run(None, feeds)
