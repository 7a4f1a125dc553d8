"""Exports dense and pruned models to ONNX, quantizes the files to int8, and compares them with PyTorch."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem
from trimformer.errors import TrimformerError, one_sentence
from trimformer.export.onnx.serve import open_session
from trimformer.export.written_files import (
    TOLERANCE,
    Runtime,
    Written,
    check_export_arguments,
    of_two_shapes,
    write,
)
from trimformer.models.layer_calls import Batch
from trimformer.options.choices import OPSETS as OPSETS
from trimformer.utils.packages import check_packages

# File names that Transformers.js, Optimum and sentence-transformers look for in a folder `onnx`.
MODEL, QUANTIZED = "model.onnx", "model_quantized.onnx"

_RUNTIME = Runtime("ONNX Runtime", "ONNX", open_session)


def check_onnx() -> None:
    """Checks that the packages for ONNX files are installed.

    Raises:
        TrimformerError: a package is missing.
    """
    check_packages("ONNX files need", ("onnxruntime", "onnxscript", "onnx_ir"), "onnx")


def check_exportable(model: PreTrainedModel) -> None:
    """Checks that a model's ONNX or OpenVINO file would be of use.

    Raises:
        TrimformerError: it is a language model, whose file would compute all earlier tokens again for each new one.
    """
    if find_problem(model) == "language":
        raise TrimformerError(
            "ONNX and OpenVINO files of a language model would have no key-value cache; leave out the export, or write "
            "GGUF"
        )


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
    """Exports a model to an ONNX file for any number of samples and tokens.

    Args:
        model: in float32 on the CPU; left unchanged.
        path: of the file; an existing file is replaced.
        example_batches: real samples; the first batch defines the inputs, all of them check the file.
        opset: ONNX operator set, 18 to 23; before 23, attention is an operator of ONNX Runtime.
        embedding: for a text encoder, output `token_embeddings` and `sentence_embedding`.

    Raises:
        TrimformerError: the model cannot be exported, or the file's outputs differ; nothing is written then.
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
    """Quantizes the weights of an ONNX file to int8; activations are quantized dynamically.

    Weights use seven of the eight bits, so that products do not overflow on CPUs without VNNI.

    Args:
        source: a file written by `export_onnx`.
        path: of the new file; an existing file is replaced.
        model: the model of the source file.
        example_batches: samples for comparing the new file with the model.

    Raises:
        TrimformerError: the source is missing or already quantized.
    """
    check_onnx()
    import onnx_ir

    from trimformer.export.onnx.int8 import is_quantized, quantize_weights

    _check(model, example_batches, OPSETS[-1], path)
    if not Path(source).is_file():
        raise TrimformerError(f"ONNX file '{source}' does not exist; write it with export_onnx")
    with one_sentence(f"'{source}' is not an ONNX file"):
        graph = onnx_ir.load(str(source))
    if is_quantized(graph):
        raise TrimformerError(f"'{source}' is in eight bits already; give the file of export_onnx")
    if not quantize_weights(graph):
        raise TrimformerError(f"'{source}' has no matrices that could be put into eight bits")
    return write(path, partial(onnx_ir.save, graph), _RUNTIME, model, of_two_shapes(model, example_batches))


def _check(model: PreTrainedModel, batches: Sequence[Batch], opset: int, path: str | Path) -> None:
    """Checks the arguments of an export.

    Raises:
        TrimformerError: an argument is invalid.
    """
    if opset not in OPSETS:
        raise TrimformerError(f"opset {opset} is not one of {OPSETS[0]} to {OPSETS[-1]}")
    check_export_arguments(model, batches, path, "ONNX")
