"""What pruning costs, in a unit that holds on any machine: a forward pass of the dense model over the samples."""

import resource
import sys
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from trimformer.costs.timing import Stopwatch
from trimformer.models.layer_calls import Batch, forward
from trimformer.models.masking import frozen

SHARE = 16


@torch.inference_mode()
def forward_seconds(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Seconds of a forward pass over all batches, by the time that a sixteenth of them takes.

    Args:
        model: on the batches' device.
        batches: of similar lengths next to each other.
    """
    chosen = batches[len(batches) % SHARE // 2 :: SHARE]
    watch = Stopwatch(model.device)
    with frozen(model):
        forward(model, chosen[0])
        watch.mark()
        for batch in chosen:
            forward(model, batch)
            watch.mark()
    tokens = [sum(batch[model.main_input_name].numel() for batch in some) for some in (batches, chosen)]
    return float(np.sum(watch.laps())) / 1e3 * tokens[0] / tokens[1]


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory this process has held so far, in GB: of the machine, and of the GPU where it runs on one."""
    unit = 1e9 if sys.platform == "darwin" else 1e9 / 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device) / 1e9
    return peak
