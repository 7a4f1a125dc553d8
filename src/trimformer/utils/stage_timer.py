"""Measures and logs the seconds that each stage of a run takes."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

_LABELS = {
    "rows": "reading the data",
    "data": "drawing the samples",
    "vocabulary": "counting tokens",
    "table": "measuring latencies",
    "calibrate": "collecting statistics",
    "curves": "ranking heads and neurons",
    "search": "allocating the budget",
    "shrink": "removing heads and neurons",
    "update": "refitting the remaining weights",
    "polish": "distilling from the dense model",
    "judge": "testing the quality",
    "evaluate": "scoring the models",
    "timing": "timing the models",
    "export": "exporting and comparing the files",
}


class StageTimer:
    """Adds up the seconds of named stages.

    Attributes:
        seconds: total seconds of each stage so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Logs the stage and adds the time of the `with` body to it; waits for the GPU first."""
        logger.info("%s ...", _LABELS.get(stage, stage))
        start = time.perf_counter()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Returns the seconds added to each stage since `before`, an earlier copy of `seconds`."""
        return {stage: s - before.get(stage, 0.0) for stage, s in self.seconds.items() if s != before.get(stage)}
