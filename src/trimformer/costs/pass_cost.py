"""Measures the time of a forward pass over the calibration samples."""

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
    """Estimates the seconds of a forward pass over all batches from every sixteenth batch.

    Args:
        model: on the batches' device.
        batches: sorted so that neighbours have similar lengths.
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
