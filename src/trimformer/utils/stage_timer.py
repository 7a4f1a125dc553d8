"""Seconds of each stage, by its name."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from trimformer.utils.progress import WORDS
from trimformer.utils.progress import stage as shown

logger = logging.getLogger(__name__)

# Of each time that a stage runs, in forward passes over the calibration samples, about: for the bar only.
_PASSES = {"data": 0.3, "calibrate": 3.0, "curves": 0.7, "search": 0.05, "shrink": 0.05, "update": 2.4,
           "evaluate": 1.5, "timing": 0.7}  # fmt: skip
_TABLE, _VOCABULARY, _JUDGE, _POLISH = 4.0, 0.3, 1.0, 10.0
_LOOKS = 3  # at a target, each on fewer samples, before the model itself


def plan_of(
    models: int = 1,
    methods: int = 1,
    *,
    table: bool = False,
    vocabulary: bool = False,
    target: bool = False,
    polish: bool = False,
) -> dict[str, list[float]]:
    """How long the stages of a run may take, each time that they run.

    Args:
        models: that are pruned.
        methods: by so many methods.
        table: latencies are measured first.
        vocabulary: tokens are dropped.
        target: the budget is looked for.
        polish: models are polished.
    """
    times = {"data": 1, "calibrate": methods, "curves": methods}
    plan = {stage: [passes] * times.get(stage, models) for stage, passes in _PASSES.items()}
    plan |= {"table": [_TABLE] * table, "vocabulary": [_VOCABULARY] * vocabulary}
    if polish:
        plan["polish"] = [_POLISH] * (models + target * _LOOKS)
    if target:
        plan["update"] = [_PASSES["update"] / 4] * _LOOKS + plan["update"]
        plan["judge"] = [_JUDGE] * (_LOOKS + 2)
    return plan


class StageTimer:
    """Times stages; a stage that runs several times adds up.

    Attributes:
        seconds: of each stage so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times what runs within it."""
        logger.info("%s ...", WORDS.get(stage, stage))
        start = time.perf_counter()
        with shown(stage):
            yield
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """What was added to an earlier copy of `seconds`."""
        return {stage: s - before.get(stage, 0.0) for stage, s in self.seconds.items() if s != before.get(stage)}
