"""Eight bits by NNCF: of weights and activations where there are samples to see, else of weights alone."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from trimformer.models.layer_calls import Batch


def static(graph: Any, batches: Sequence[Batch]) -> Any:
    """Matrix products in eight bits; what they read is scaled by what the batches show of it.

    Args:
        graph: of OpenVINO; used up.
        batches: of samples like those to come.
    """
    names = [value.any_name for value in graph.inputs]
    with _quiet() as nncf:
        from nncf.quantization.advanced_parameters import OverflowFix

        feeds = [{name: batch[name].numpy() for name in names} for batch in batches]
        # CPUs without VNNI add two products of bytes in sixteen bits: half the range for all weights, as in our ONNX.
        parameters = nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)
        return nncf.quantize(
            graph,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=parameters,
        )


def weights_only(graph: Any) -> Any:
    """Weights and tables in eight bits, which are floats again where they are used.

    Args:
        graph: of OpenVINO; used up.
    """
    with _quiet() as nncf:
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """NNCF, which within prints neither what it does nor how far it is."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield nncf
