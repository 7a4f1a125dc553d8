"""Runs a forward pass with eager PyTorch, torch.compile or ONNX Runtime."""

import copy
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.export.onnx.export import check_onnx
from trimformer.options.choices import LLAMA_CPP, ONNX, AnyBackend, Backend
from trimformer.utils.packages import check_packages


def check_backend(backend: str, device: torch.device) -> None:
    """Checks that a backend is known and can run on the device.

    Raises:
        TrimformerError: the backend is unknown or cannot run here.
    """
    if backend not in get_args(AnyBackend):
        raise TrimformerError(f"backend '{backend}' is unknown; known are {', '.join(get_args(AnyBackend))}")
    if backend == "compile":
        _check_compiler(device)
    if backend in ONNX:
        check_onnx()
    if backend == LLAMA_CPP:
        check_packages("GGUF files need", ("gguf", "xllamacpp"), "gguf")
    if backend in (*ONNX, LLAMA_CPP) and device.type != "cpu":
        raise TrimformerError(f"backend '{backend}' is timed on the CPU only, not on '{device}'; give --device cpu")


def _check_compiler(device: torch.device) -> None:
    """Checks that torch.compile finds a C++ compiler.

    Raises:
        TrimformerError: there is no C++ compiler.
    """
    if device.type != "cpu":
        return
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ((named,) if named else ("g++", "clang++", "cl"))):
        raise TrimformerError(
            f"backend 'compile' needs a C++ compiler, and there is no {named or 'g++'}; install one, or name it in CXX"
        )


def prepare(
    module: nn.Module, inputs: Mapping[str, Tensor], backend: Backend, model: PreTrainedModel | None = None
) -> Callable[[], Any]:
    """Returns a function that runs the module on these inputs with the backend.

    Args:
        module: in evaluation mode, on the device of the inputs.
        inputs: keyword arguments of its forward.
        backend: name of the backend.
        model: the model that the module is a layer of; None: the module is a model.

    Raises:
        TrimformerError: the backend cannot run the module.
    """
    if backend in ONNX:
        if model is None:
            model, inputs = as_exported(cast(PreTrainedModel, module), inputs)
            module = model
        return _onnx(module, inputs, model, backend)
    if backend == "compile":
        return _compiled(module, inputs)
    assert backend == "eager"
    return lambda: module(**inputs)


def as_exported(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[PreTrainedModel, Mapping[str, Tensor]]:
    """Returns a model and its inputs as ONNX files have them, in float32; a model in another type is copied."""
    if model.dtype != torch.float32:
        model = copy.deepcopy(model).float()
    return model, {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}


def _compiled(module: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
    def run() -> Any:
        return module(**inputs)

    # Dynamo counts recompilations by code object: a module of another width is new code, not another shape.
    fresh = FunctionType(run.__code__.replace(), run.__globals__, closure=run.__closure__)
    call: Callable[[], Any] = torch.compile(fresh, dynamic=False)
    return call


def _onnx(
    module: nn.Module, inputs: Mapping[str, Tensor], model: PreTrainedModel, backend: Backend
) -> Callable[[], Any]:
    from trimformer.export.onnx.session import session_of

    session = session_of(module, inputs, model, int8=backend == "onnx-int8")
    feeds = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
    return partial(session.run, None, feeds)
