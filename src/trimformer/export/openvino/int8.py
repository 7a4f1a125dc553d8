"""Int8 quantization with NNCF: of weights and activations, or of weights alone."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from trimformer.models.layer_calls import Batch


def static(graph: Any, batches: Sequence[Batch]) -> Any:
    """Quantizes weights and activations; calibration samples set the scales of the activations.

    Args:
        graph: OpenVINO model; must not be used afterwards.
        batches: calibration samples.
    """
    names = [value.any_name for value in graph.inputs]
    with _quiet() as nncf:
        from nncf.quantization.advanced_parameters import OverflowFix

        feeds = [{name: batch[name].numpy() for name in names} for batch in batches]
        # Half the range for weights, as in the ONNX files: CPUs without VNNI add two int8 products in 16 bits.
        parameters = nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)
        return nncf.quantize(
            graph,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=parameters,
        )


def weights_only(graph: Any) -> Any:
    """Quantizes weights and embedding tables, which are converted back to floats when used.

    Args:
        graph: OpenVINO model; must not be used afterwards.
    """
    with _quiet() as nncf:
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Provides NNCF without its log messages and progress bars within the context."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield nncf
