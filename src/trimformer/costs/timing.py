"""Measures wall-clock times that can be compared on a noisy machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

now = time.perf_counter  # seconds; tests replace it
MIN_TURNS, MAX_TURNS = 7, 101
SHORT_MS = 200.0  # what runs longer finds its caches cold whatever ran before


@dataclass(frozen=True)
class Timing:
    """Median of repeated measurements in ms, with its 95 % interval."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """Summarizes measurements in ms; the interval comes from the median absolute deviation."""
        median = float(np.median(samples))
        deviation = 1.4826 * float(np.median(np.abs(np.asarray(samples) - median)))
        half = 1.96 * 1.2533 * deviation / len(samples) ** 0.5
        return cls(median, max(median - half, min(samples)), min(median + half, max(samples)), len(samples))

    @property
    def noise(self) -> float:
        """Half of the interval, relative to the median."""
        return (self.high - self.low) / 2 / self.median


class Stopwatch:
    """Times laps on a device, with CUDA events on a GPU and with the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def mark(self) -> None:
        """Starts the first lap, or ends one and starts the next."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(now())

    def laps(self) -> list[float]:
        """Returns the milliseconds of all laps since the last call."""
        if self._cuda:
            torch.cuda.synchronize()
            laps = [a.elapsed_time(b) for a, b in zip(self._events, self._events[1:], strict=False)]
        else:
            laps = [1e3 * (b - a) for a, b in zip(self._times, self._times[1:], strict=False)]
        self._events, self._times = [], []
        return laps


def interleaved(
    functions: Sequence[Callable[[], object]], device: torch.device, *, seconds: float = 3.0, seed: int = 0
) -> list[list[float]]:
    """Times functions in turns of random order, so that drift of the machine affects all alike.

    Each measurement of a short function follows an untimed call of it: caches are as if it ran alone.

    Args:
        functions: what to time.
        device: where they run.
        seconds: approximate duration; at least 7 and at most 101 turns.
        seed: seed of the order.

    Returns:
        Milliseconds [functions, turns]; entries of one turn are measured at about the same time.
    """
    rng, watch = np.random.default_rng(seed), Stopwatch(device)
    laps: list[list[float]] = [[] for _ in functions]
    with torch.inference_mode():
        for function in functions:
            function()  # compiles, allocates
        is_short = []
        for function in functions:
            watch.mark()
            function()
            watch.mark()
            is_short.append(watch.laps()[0] < SHORT_MS)
        start = now()
        for turn in range(MAX_TURNS):
            if turn >= MIN_TURNS and now() - start > seconds:
                break
            for i in rng.permutation(len(functions)).tolist():
                if is_short[i]:
                    functions[i]()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                watch.mark()
                functions[i]()
                watch.mark()
                laps[i] += watch.laps()
    return laps
