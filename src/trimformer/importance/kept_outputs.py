"""Chooses the sublayers whose outputs calibration keeps, so that the refit need not run the dense model again."""

import math
from collections.abc import Sequence

from trimformer.models import Sublayer
from trimformer.models.linear import matrix


def memory_for_outputs(max_memory: float, free: float) -> float:
    """Returns the bytes that kept outputs may take: the rest is left to the moments and the refit.

    Args:
        max_memory: see `ExecutionOptions`.
        free: free bytes of the device, infinite if unknown. Without a bound, nothing is kept.
    """
    memory = min(max_memory / 2, free / 3)
    return 0.0 if math.isinf(memory) else memory


def choose_kept_outputs(sublayers: Sequence[Sublayer], bytes_per_width: float, memory: float) -> list[int]:
    """Returns the positions of the sublayers whose outputs fit into memory, those with the most weights per byte first.

    Layers that are called at several depths are left out.

    Args:
        sublayers: sublayers of the dense model.
        bytes_per_width: positions of all batches, times bytes per number.
        memory: bytes that the outputs may take.
    """
    chosen = []
    for i in sorted(range(len(sublayers)), key=lambda i: -_weights_per_width(sublayers[i])):
        size = bytes_per_width * sublayers[i].hidden_size
        if sublayers[i].calls_per_pass == 1 and size <= memory:
            chosen.append(i)
            memory -= size
    return sorted(chosen)


def _weights_per_width(sublayer: Sublayer) -> float:
    linears = [sublayer.projection, *(producer.linear for producer in sublayer.producers)]
    return sum(matrix(linear).numel() for linear in linears) / sublayer.hidden_size
