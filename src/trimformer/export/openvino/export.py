"""Exports dense and pruned models to OpenVINO, quantizes them with NNCF, and compares them with PyTorch."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer.errors import TrimformerError, one_sentence
from trimformer.export.openvino.serve import open_session
from trimformer.export.written_files import (
    TOLERANCE,
    Runtime,
    Written,
    check_export_arguments,
    of_two_shapes,
    write,
)
from trimformer.models.layer_calls import Batch
from trimformer.utils.packages import check_packages

# File names that Optimum and sentence-transformers look for in a folder `openvino`.
MODEL, QUANTIZED = "openvino_model.xml", "openvino_model_qint8_quantized.xml"

_RUNTIME = Runtime("OpenVINO", "OpenVINO", open_session)

_NEEDED = ("openvino", "nncf", "onnxscript", "onnx_ir")


def check_openvino() -> None:
    """Checks that the packages for OpenVINO files are installed.

    Raises:
        TrimformerError: a package is missing.
    """
    check_packages("OpenVINO files need", _NEEDED, "openvino")


def write_openvino(
    model: PreTrainedModel,
    folder: Path,
    example_batches: Sequence[Batch],
    *,
    int8: bool,
    calibration: Sequence[Batch] = (),
) -> list[Written]:
    """Writes `openvino_model.xml`, and its int8 version if `int8`, into a folder."""
    files = [export_openvino(model, folder / MODEL, example_batches)]
    if int8:
        files.append(quantize(folder / MODEL, folder / QUANTIZED, model, example_batches, calibration))
    return files


def export_openvino(model: PreTrainedModel, path: str | Path, example_batches: Sequence[Batch]) -> Written:
    """Exports a model to an OpenVINO file, with its weights beside it, for any number of samples and tokens.

    Args:
        model: in float32 on the CPU; left unchanged.
        path: of the `.xml`; an existing file is replaced.
        example_batches: real samples; the first batch defines the inputs, all of them check the file.

    Raises:
        TrimformerError: the model cannot be exported, or the file's outputs differ; nothing is written then.
    """
    check_openvino()
    import openvino

    from trimformer.export.onnx.session import model_bytes

    check_export_arguments(model, example_batches, path, "OpenVINO")
    graph = model_bytes(model, example_batches[0])
    with one_sentence(f"OpenVINO {openvino.__version__} cannot convert {type(model).__name__}"):
        converted = openvino.Core().read_model(graph)
    return write(path, partial(_save, converted), _RUNTIME, model, of_two_shapes(model, example_batches), TOLERANCE)


def quantize(
    source: str | Path,
    path: str | Path,
    model: PreTrainedModel,
    example_batches: Sequence[Batch],
    calibration: Sequence[Batch] = (),
) -> Written:
    """Quantizes an OpenVINO file to int8 with NNCF.

    Weights use half the range of int8, so that products do not overflow on CPUs without VNNI.

    Args:
        source: a file written by `export_openvino`.
        path: of the new `.xml`; an existing file is replaced.
        model: the model of the source file.
        example_batches: samples for comparing the new file with the model.
        calibration: samples for quantizing activations; without them, only weights are quantized.

    Raises:
        TrimformerError: the source is missing, or NNCF cannot quantize it.
    """
    check_openvino()
    import openvino

    from trimformer.export.openvino.int8 import static, weights_only

    check_export_arguments(model, example_batches, path, "OpenVINO")
    if not Path(source).is_file():
        raise TrimformerError(f"OpenVINO file '{source}' does not exist; write it with export_openvino")
    with one_sentence(f"'{source}' is not an OpenVINO file"):
        graph = openvino.Core().read_model(str(source))
    with one_sentence(f"NNCF cannot quantize '{source}'"):
        quantized = static(graph, calibration) if calibration else weights_only(graph)
    return write(path, partial(_save, quantized), _RUNTIME, model, of_two_shapes(model, example_batches))


def check_room(path: Path, size: int) -> None:
    """Reserves a file of this size and removes it, as OpenVINO's own error does not say that a disk is full.

    Raises:
        OSError: the disk, a quota or the limit on file sizes does not allow it.
    """
    if size and hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        path.unlink()


def _save(graph: Any, path: Path) -> None:
    """Saves a graph in float32."""
    import openvino

    constants = (op for op in graph.get_ops() if op.get_type_name() == "Constant")
    check_room(path.with_suffix(".bin"), sum(op.data.nbytes for op in constants))
    openvino.save_model(graph, str(path), compress_to_fp16=False)  # float16 would change the outputs
