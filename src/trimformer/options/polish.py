"""What a polish trains on and what it may cost: dense forward passes over its samples, or seconds."""

import math
import re
from dataclasses import dataclass
from typing import Any

from trimformer.errors import TrimformerError
from trimformer.options.checks import check_flag, shorten
from trimformer.options.option import check_options, option

DEFAULT_BUDGET = "10x"

# Share of a dense pass that pruning does not shrink: embeddings, norms, attention scores, and in a training step the
# optimiser's work. Measured on MiniLM-L6 at 10 and 20 % of the MACs.
_FIXED = 0.04

_FAR = 1.5  # an estimate before the work is not exact, so only a budget far below one epoch is refused by it

_FORM = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(x|s|sec|min|h)")
_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class PolishBudget:
    """The cost of a polish, in passes or in seconds; exactly one of the two is given.

    Attributes:
        passes: forward passes of the dense model over the polish samples, including the one that makes the targets.
        seconds: wall time, including the dense model's pass.
        stoppable: whether Ctrl-C ends the training and keeps the best model so far; otherwise it ends the run.
    """

    passes: float | None = None
    seconds: float | None = None
    stoppable: bool = False

    def __str__(self) -> str:
        return f"{self.passes:g}x" if self.passes is not None else f"{self.seconds:g}s"


def parse_budget(text: str, stoppable: bool = False) -> PolishBudget:
    """Reads a budget such as "10x" (forward passes), "90s", "2min" or "1h".

    Raises:
        TrimformerError: the text has another form, or is zero.
    """
    if not isinstance(text, str):
        raise TrimformerError(f"polish_budget is {shorten(text)}; give a text such as '10x' or '2min'")
    match = _FORM.fullmatch(text.strip().lower())
    if not match or not float(match[1]):
        raise TrimformerError(
            f"polish budget '{text[:50]}' is neither forward passes such as 10x nor a time such as 90s or 2min"
        )
    number = float(match[1])
    if match[2] == "x":
        return PolishBudget(passes=number, stoppable=stoppable)
    return PolishBudget(seconds=number * _SECONDS[match[2]], stoppable=stoppable)


def epoch_passes(share: float) -> float:
    """Cost of an epoch over all polish samples, in dense forward passes.

    The cost is counted rather than timed, so that a budget in passes gives the same model on every machine: forward
    and backward are three passes of the student.

    Args:
        share: fraction of the dense model's MACs that the student keeps.
    """
    return 3 * (_FIXED + (1 - _FIXED) * share)


def epochs_of_passes(budget: PolishBudget, share: float) -> float:
    """Number of epochs that a budget in passes pays for, after the pass of the dense model.

    Raises:
        TrimformerError: the budget pays for less than one epoch.
    """
    assert budget.passes is not None
    epochs = (budget.passes - 1) / epoch_passes(share)
    if epochs < 1:
        raise TrimformerError(
            f"polish budget {budget} is below one epoch, which costs {1 + epoch_passes(share):.1f}x: one pass of the "
            "dense model, and the training; give more"
        )
    return epochs


def check_seconds(budget: PolishBudget, share: float, pass_seconds: float) -> None:
    """Checks that a budget in seconds may pay for an epoch; the training itself measures what it really pays for.

    Args:
        budget: in seconds.
        share: fraction of the dense model's MACs that the student keeps.
        pass_seconds: seconds of a dense forward pass over all polish samples.

    Raises:
        TrimformerError: an epoch takes `_FAR` times the budget or more.
    """
    assert budget.seconds is not None
    needed = pass_seconds * (1 + epoch_passes(share))
    if needed > _FAR * budget.seconds:
        raise TrimformerError(
            f"polish budget {budget} is far below one epoch, which takes about {needed:.0f} seconds on this machine "
            "with the dense model's pass; give more time or fewer samples"
        )


def steps_of_seconds(budget: PolishBudget, left: float, per_step: float, steps_per_epoch: int) -> int:
    """Number of training steps that the rest of a budget in seconds pays for.

    Args:
        budget: the whole budget.
        left: seconds that remain of it.
        per_step: measured seconds of one step.
        steps_per_epoch: batches to train on.

    Raises:
        TrimformerError: the budget pays for less than one epoch.
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


def _check_budget(name: str, value: Any) -> None:
    parse_budget(value)


@dataclass(frozen=True)
class PolishOptions:
    """What a polish trains on and what it may cost. `polish_data` is a file for the command line, rows for Python."""

    polish_data: Any = option(
        None,
        "more samples like those of --data; labels are not read",
        python_help="more examples like those of `dataset`, for a method that polishes; labels are not read.",
        metavar="FILE",
    )
    polish_budget: str = option(
        DEFAULT_BUDGET,
        "forward passes of the dense model over these samples, or a time (default: %(default)s)",
        python_help='cost of the polish: dense forward passes over its samples ("10x") or a time ("2min").',
        check=_check_budget,
        metavar="10x|2min",
    )
    polish_stoppable: bool = option(
        False,
        "Ctrl-C while the polish trains ends it; the best model so far is kept",
        python_help="whether Ctrl-C while the polish trains ends it and keeps the best model so far.",
        check=check_flag,
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used.
        """
        check_options(self)

    @property
    def is_default(self) -> bool:
        """Whether nothing is given."""
        return self.polish_data is None and self.polish_budget == DEFAULT_BUDGET and not self.polish_stoppable
