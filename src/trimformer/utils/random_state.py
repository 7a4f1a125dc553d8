"""Keeps the random numbers of the caller: a run seeds the generators that all of Python shares."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Restores the shared generators of Python, NumPy and PyTorch, on the CPU and one device, when the body ends."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
