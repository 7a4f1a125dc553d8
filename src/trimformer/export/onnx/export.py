"""ONNX files of models, dense or pruned, for ONNX Runtime: exported, put into eight bits, and checked."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem
from trimformer.errors import TrimformerError, one_sentence
from trimformer.export.onnx.files import (
    TOLERANCE,
    Runtime,
    Written,
    check_packages,
    check_written,
    of_two_shapes,
    write,
)
from trimformer.export.onnx.serve import open_session
from trimformer.models.layer_calls import Batch
from trimformer.options.choices import OPSETS as OPSETS

# The names of a folder `onnx` that Transformers.js, optimum and sentence-transformers know.
MODEL, QUANTIZED = "model.onnx", "model_quantized.onnx"

_RUNTIME = Runtime("ONNX Runtime", "ONNX", open_session)


def check_onnx() -> None:
    """Raises:
    TrimformerError: a package is missing.
    """
    check_packages("ONNX", ("onnxruntime", "onnxscript", "onnx_ir"), "onnx")


def write_files(
    model: PreTrainedModel,
    folder: Path,
    example_batches: Sequence[Batch],
    *,
    int8: bool,
    opset: int | None = None,
) -> list[Written]:
    """Writes `model.onnx`, and `model_quantized.onnx` if `int8`, into a folder; see `export_onnx` and `quantize`."""
    files = [export_onnx(model, folder / MODEL, example_batches, opset=opset)]
    if int8:
        files.append(quantize(folder / MODEL, folder / QUANTIZED, model, example_batches))
    return files


def export_onnx(
    model: PreTrainedModel,
    path: str | Path,
    example_batches: Sequence[Batch],
    *,
    opset: int | None = None,
    embedding: bool = False,
) -> Written:
    """Writes a file that gives what the model gives, for any number of samples and tokens.

    Args:
        model: in float32 on the CPU; left as it was.
        path: of the file; one that exists is replaced.
        example_batches: of real samples; the first tells what the file takes, on all of them it is checked.
        opset: version of ONNX's operators, 18 to 23; before 23, attention is an operator of ONNX Runtime's own.
        embedding: of a text encoder, give `token_embeddings` and `sentence_embedding`.

    Raises:
        TrimformerError: the model cannot be exported, or its file gives something else; nothing is written then.
    """
    check_onnx()
    import onnx_ir

    from trimformer.export.onnx.session import model_graph

    opset = OPSETS[-1] if opset is None else opset
    _check(model, example_batches, opset, path)
    if embedding and (find_problem(model) != "embedding" or "input_ids" not in example_batches[0]):
        raise TrimformerError(f"{type(model).__name__} gives no embeddings of texts; leave out embedding=True")
    graph = model_graph(model, example_batches[0], opset, embedding)
    batches = of_two_shapes(model, example_batches)
    return write(path, partial(onnx_ir.save, graph), _RUNTIME, model, batches, TOLERANCE)


def quantize(source: str | Path, path: str | Path, model: PreTrainedModel, example_batches: Sequence[Batch]) -> Written:
    """Writes a file with the weights of another in eight bits; activations are quantized as they come.

    It is right on every CPU: weights keep seven bits of the eight, so that those without VNNI do not overflow.

    Args:
        source: a file of `export_onnx`.
        path: of the new file; one that exists is replaced.
        model: what the source was made of.
        example_batches: on which the two are compared.

    Raises:
        TrimformerError: the source is missing, or in eight bits already.
    """
    check_onnx()
    import onnx_ir

    from trimformer.export.onnx.int8 import is_quantized, quantize_weights

    _check(model, example_batches, OPSETS[-1], path)
    if not Path(source).is_file():
        raise TrimformerError(f"ONNX file '{source}' does not exist; write it with export_onnx")
    with one_sentence(f"'{source}' is no ONNX file"):
        graph = onnx_ir.load(str(source))
    if is_quantized(graph):
        raise TrimformerError(f"'{source}' is in eight bits already; give the file of export_onnx")
    if not quantize_weights(graph):
        raise TrimformerError(f"'{source}' has no matrices that could be put into eight bits")
    return write(path, partial(onnx_ir.save, graph), _RUNTIME, model, example_batches)


def _check(model: PreTrainedModel, batches: Sequence[Batch], opset: int, path: str | Path) -> None:
    """Raises:
    TrimformerError: the arguments cannot be used.
    """
    if opset not in OPSETS:
        raise TrimformerError(f"opset {opset} is not one of {OPSETS[0]} to {OPSETS[-1]}")
    check_written(model, batches, path, "ONNX")
