"""What a polish may cost: dense forward passes over its samples, or seconds."""

import math
import re
from dataclasses import dataclass

from trimformer.errors import TrimformerError

DEFAULT_BUDGET = "10x"

# Of a dense pass what pruning leaves as it is: embeddings, norms, attention scores, in a step the optimiser's work too.
# Measured on MiniLM-L6 at 10 and 20 % of MACs.
_FIXED = 0.04

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(x|s|sec|min|h)")
_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class PolishBudget:
    """One of the two is given.

    Attributes:
        passes: forward passes of the dense model over the polish samples, the one that makes the targets included.
        seconds: of wall time, the dense model's pass included.
        stoppable: Ctrl-C ends the training, and the best so far stays; else it ends the run.
    """

    passes: float | None = None
    seconds: float | None = None
    stoppable: bool = False

    def __str__(self) -> str:
        return f"{self.passes:g}x" if self.passes is not None else f"{self.seconds:g}s"


def parse_budget(text: str, stoppable: bool = False) -> PolishBudget:
    """A budget of "10x" (forward passes), "90s", "2min" or "1h".

    Raises:
        TrimformerError: it is written in another way, or is nothing.
    """
    match = _FORM.fullmatch(text.strip().lower())
    if not match or not float(match[1]):
        raise TrimformerError(
            f"polish budget '{text}' is neither forward passes such as 10x nor a time such as 90s or 2min"
        )
    number = float(match[1])
    if match[2] == "x":
        return PolishBudget(passes=number, stoppable=stoppable)
    return PolishBudget(seconds=number * _SECONDS[match[2]], stoppable=stoppable)


def epoch_passes(share: float) -> float:
    """Dense forward passes that an epoch over all polish samples costs.

    By a count and no clock, so that a budget in passes gives the same model on every machine: forward and backward
    are three passes of the student.

    Args:
        share: of the dense model's MACs that the student has left.
    """
    return 3 * (_FIXED + (1 - _FIXED) * share)


def epochs_of_passes(budget: PolishBudget, share: float) -> float:
    """Epochs that a budget in passes pays for, the pass of the dense model aside.

    Raises:
        TrimformerError: it is less than one.
    """
    assert budget.passes is not None
    epochs = (budget.passes - 1) / epoch_passes(share)
    if epochs < 1:
        raise TrimformerError(
            f"polish budget {budget} is below one epoch, which costs {1 + epoch_passes(share):.1f}x: one pass of the "
            "dense model, and the training; give more"
        )
    return epochs


def steps_of_seconds(budget: PolishBudget, left: float, per_step: float, steps_per_epoch: int) -> int:
    """Training steps that the rest of a budget in seconds pays for.

    Args:
        budget: as it was given.
        left: seconds of it that are left.
        per_step: seconds that a step was measured to take.
        steps_per_epoch: batches to train on.

    Raises:
        TrimformerError: it pays for less than an epoch.
    """
    assert budget.seconds is not None
    steps = math.floor(max(left, 0.0) / per_step)
    if steps < steps_per_epoch:
        needed = budget.seconds - left + per_step * steps_per_epoch
        raise TrimformerError(
            f"polish budget {budget} is below one epoch, which takes {needed:.1f} seconds on this machine with the "
            "dense model's pass; give more time or fewer samples"
        )
    return steps
