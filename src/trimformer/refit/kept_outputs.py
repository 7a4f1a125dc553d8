"""Chooses the sublayers whose outputs calibration keeps, so that the refit need not run the dense model again."""

import math
from collections.abc import Sequence

from transformers import PreTrainedModel

from trimformer.costs.macs import unit_parameters
from trimformer.importance.second_moments import moment_bytes
from trimformer.models import Sublayer, find_sublayers
from trimformer.models.layer_calls import Batch, count_positions
from trimformer.models.masking import frozen
from trimformer.refit.memory_estimate import estimate_memory
from trimformer.refit.walk_memory import WalkMemory
from trimformer.utils.distributed import world_size
from trimformer.utils.memory import free_memory


def choose_kept_outputs(model: PreTrainedModel, batches: Sequence[Batch], max_memory: float) -> list[int]:
    """Returns the positions of the sublayers whose outputs fit into memory that nothing else needs.

    Those with the most weights per byte come first. Layers that are called at several depths are left out.

    Args:
        model: the dense model, on its device.
        batches: calibration samples of this process.
        max_memory: see `ExecutionOptions`.
    """
    sublayers = find_sublayers(model)
    with frozen(model):
        positions = count_positions(model, batches)
    rows = [batch[model.main_input_name].numel() for batch in batches]
    largest = round(max(positions) * max(rows) / sum(rows))
    sharing = world_size() if model.device.type == "cpu" else 1  # processes that share the free memory
    memory = spare_memory(
        model, max(positions), largest, max_memory=max_memory, free=free_memory(model.device) / sharing
    )
    sizes = [count * model.dtype.itemsize * s.hidden_size for count, s in zip(positions, sublayers, strict=True)]
    return fill_memory(sublayers, sizes, memory)


def spare_memory(model: PreTrainedModel, tokens: int, batch_tokens: int, *, max_memory: float, free: float) -> float:
    """Returns the bytes that outputs may take: at most a third of the free ones, and no others than are left over.

    Args:
        model: the dense model.
        tokens: calibration tokens of this process.
        batch_tokens: tokens of the largest batch, with padding.
        max_memory: see `ExecutionOptions`; second moments, or hidden states and channels of a student, come first.
        free: free bytes of the device, of which what pruning is estimated to take comes first; infinite if unknown.

    Returns:
        Bytes; 0 if neither bound is known.
    """
    sublayers, bytes_per_width = find_sublayers(model), tokens * model.dtype.itemsize
    needed = estimate_memory(model, tokens, batch_tokens, max_memory=max_memory)
    hidden_size, channels = (max(getattr(s, name) for s in sublayers) for name in ("hidden_size", "channels"))
    stored = WalkMemory.of(bytes_per_width, hidden_size, channels, 1, max_memory)
    bounded = max_memory - max(sum(map(moment_bytes, sublayers)), stored.states + stored.channels)
    memory = min(bounded, free / 3, free - (needed.total - needed.weights))
    return 0.0 if math.isinf(memory) else max(memory, 0.0)


def fill_memory(sublayers: Sequence[Sublayer], sizes: Sequence[float], memory: float) -> list[int]:
    """Returns the positions of the sublayers whose outputs fit into memory; see `choose_kept_outputs`.

    Args:
        sublayers: sublayers of the dense model.
        sizes: bytes of the outputs of each.
        memory: bytes that all may take.
    """
    chosen = []
    weights = [s.num_units * unit_parameters(s) for s in sublayers]
    for i in sorted(range(len(sublayers)), key=lambda i: -weights[i] / max(sizes[i], 1)):
        if sublayers[i].calls_per_pass == 1 and sizes[i] <= memory:
            chosen.append(i)
            memory -= sizes[i]
    return sorted(chosen)
