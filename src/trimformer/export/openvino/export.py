"""OpenVINO files of models, dense or pruned: converted, put into eight bits by NNCF, and checked."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

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
from trimformer.export.openvino.serve import open_session
from trimformer.models.layer_calls import Batch

# The names of a folder `openvino` that optimum and sentence-transformers know.
MODEL, QUANTIZED = "openvino_model.xml", "openvino_model_qint8_quantized.xml"

_RUNTIME = Runtime("OpenVINO", "OpenVINO", open_session)

_NEEDED = ("openvino", "nncf", "onnxscript", "onnx_ir")


def check_openvino() -> None:
    """Raises:
    TrimformerError: a package is missing.
    """
    check_packages("OpenVINO", _NEEDED, "openvino")


def write_openvino(
    model: PreTrainedModel,
    folder: Path,
    example_batches: Sequence[Batch],
    *,
    int8: bool,
    calibration: Sequence[Batch] = (),
) -> list[Written]:
    """Writes `openvino_model.xml`, and the one in eight bits if `int8`, into a folder; see the functions below."""
    files = [export_openvino(model, folder / MODEL, example_batches)]
    if int8:
        files.append(quantize(folder / MODEL, folder / QUANTIZED, model, example_batches, calibration))
    return files


def export_openvino(model: PreTrainedModel, path: str | Path, example_batches: Sequence[Batch]) -> Written:
    """Writes a file, and its weights beside it, that gives what the model gives, for any number of samples and tokens.

    Args:
        model: in float32 on the CPU; left as it was.
        path: of the `.xml`; one that exists is replaced.
        example_batches: of real samples; the first tells what the file takes, on all of them it is checked.

    Raises:
        TrimformerError: the model cannot be exported, or its file gives something else; nothing is written then.
    """
    check_openvino()
    import openvino

    from trimformer.export.onnx.session import model_bytes

    check_written(model, example_batches, path, "OpenVINO")
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
    """Writes a file in eight bits, made of another by NNCF.

    It is right on every CPU: those without VNNI are left half the range of weights, so that nothing overflows.

    Args:
        source: a file of `export_openvino`.
        path: of the new `.xml`; one that exists is replaced.
        model: what the source was made of.
        example_batches: on which the two are compared.
        calibration: what activations are quantized for; without, only weights are.

    Raises:
        TrimformerError: the source is missing, or NNCF cannot put it into eight bits.
    """
    check_openvino()
    import openvino

    from trimformer.export.openvino.int8 import static, weights_only

    check_written(model, example_batches, path, "OpenVINO")
    if not Path(source).is_file():
        raise TrimformerError(f"OpenVINO file '{source}' does not exist; write it with export_openvino")
    with one_sentence(f"'{source}' is no OpenVINO file"):
        graph = openvino.Core().read_model(str(source))
    with one_sentence(f"NNCF cannot put '{source}' into eight bits"):
        smaller = static(graph, calibration) if calibration else weights_only(graph)
    return write(path, partial(_save, smaller), _RUNTIME, model, example_batches)


def _save(graph: Any, path: Path) -> None:
    import openvino

    openvino.save_model(graph, str(path), compress_to_fp16=False)  # half the bytes would not be the same outputs
