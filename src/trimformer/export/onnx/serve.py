"""Runs a model's forward pass in ONNX Runtime, so that files are scored like models."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import one_sentence
from trimformer.models.layer_calls import replaced_forward


class _Output(dict[str, Tensor]):
    """Outputs of a model, accessible by key and by attribute."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


# Output names: sentence-transformers -> Transformers.
_RENAMED = {"token_embeddings": "last_hidden_state"}


def open_session(path: str | Path | bytes) -> Any:
    """Opens an ONNX file in ONNX Runtime on the CPU.

    Args:
        path: of the file, or its contents.

    Raises:
        TrimformerError: the file is missing or this version cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    name, model = ("the model", path) if isinstance(path, bytes) else (f"'{path}'", str(path))
    with one_sentence(f"ONNX Runtime {onnxruntime.__version__} cannot load {name}"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def running_in(model: PreTrainedModel, session: Any) -> Iterator[None]:
    """Replaces a model's forward pass by a session within the context.

    Args:
        model: the model of the session's file.
        session: as returned by `open_session`.
    """
    input_names = [value.name for value in session.get_inputs()]
    output_names = [value.name for value in session.get_outputs()]

    def run(**inputs: Any) -> _Output:
        feeds = {name: inputs[name].numpy() for name in input_names if name in inputs}
        values: dict[str, Any] = dict(zip(output_names, session.run(None, feeds), strict=True))
        return _Output({_RENAMED.get(name, name): torch.from_numpy(value) for name, value in values.items()})

    with replaced_forward(model, run):
        yield
