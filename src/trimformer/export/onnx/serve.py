"""A model whose forward pass is run by ONNX Runtime from a file, so that whatever scores models scores files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import one_sentence


class _Output(dict[str, Tensor]):
    """What a model gives, by item and by attribute."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


# Names of sentence-transformers -> of Transformers.
_SAME = {"token_embeddings": "last_hidden_state"}


def open_session(path: str | Path | bytes, threads: int | None = None) -> Any:
    """A session of ONNX Runtime on the CPU.

    Args:
        path: of the file, or what it would hold.
        threads: None: as many as PyTorch uses.

    Raises:
        TrimformerError: the file is missing, or none that this version runs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    name, model = ("the model", path) if isinstance(path, bytes) else (f"'{path}'", str(path))
    with one_sentence(f"ONNX Runtime {onnxruntime.__version__} cannot load {name}"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def served(model: PreTrainedModel, session: Any) -> Iterator[None]:
    """Within it, the model's forward pass is the session's.

    Args:
        model: the one that the session's file was made of.
        session: of `open_session`.
    """
    wanted = [value.name for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]

    def run(**inputs: Any) -> _Output:
        given = {name: inputs[name].numpy() for name in wanted if name in inputs}
        values = session.run(None, given)
        return _Output({_SAME.get(n, n): torch.from_numpy(value) for n, value in zip(names, values, strict=True)})

    vars(model)["forward"] = run
    try:
        yield
    finally:
        vars(model).pop("forward")
