"""Wall-clock time of models, measured so that they can be compared on a noisy machine."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from trimformer.masking import frozen


@torch.no_grad()
def interleaved_latency(
    models: Sequence[PreTrainedModel], inputs: Mapping[str, torch.Tensor], repeats: int = 7
) -> list[float]:
    """Median seconds of a forward pass of each model; they take turns, after one warm-up each.

    Args:
        models: on the device of the inputs.
        inputs: keyword arguments of their forward.
        repeats: turns.
    """
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 1):
        for model, times in zip(models, seconds, strict=True):
            with frozen(model):
                start = _now(inputs)
                model(**inputs)
                if turn:
                    times.append(_now(inputs) - start)
    return [float(np.median(times)) for times in seconds]


def _now(inputs: Mapping[str, torch.Tensor]) -> float:
    if next(iter(inputs.values())).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
