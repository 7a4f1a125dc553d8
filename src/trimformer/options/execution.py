"""How a run is to be done, as against what: memory, precision, seed, what is timed and shown."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


def _silent(items: Iterable[Any], desc: str) -> Iterable[Any]:
    return items


@dataclass(frozen=True)
class ExecutionOptions:
    """Options that every stage shares; none of them changes what is asked for.

    Attributes:
        max_memory: bytes that the samples' hidden states and channels may take; beyond, channels are computed twice
            and hidden states go to temporary files.
        bf16: run the passes in bfloat16; statistics stay in float32 and float64.
        seed: for label-free losses and the random criterion.
        calibration_dir: folder where what calibration found is kept, and taken from; None: nowhere.
        progress: (items, description) -> the items, with a bar where there is a terminal.
        clock: context managers that time a stage, by its name.
    """

    max_memory: float = math.inf
    bf16: bool = False
    seed: int = 0
    calibration_dir: Path | None = None
    progress: Callable[[Iterable[Any], str], Iterable[Any]] = _silent
    clock: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()

    def precision(self, device: torch.device) -> AbstractContextManager[None]:
        """The context that passes run in."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)


Run = ExecutionOptions  # the name before 0.9; stays
