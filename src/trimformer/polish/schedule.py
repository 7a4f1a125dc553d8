"""The learning rate of a polish: its peak, and its course over the steps."""

from trimformer.data.outputs import Problem

LEARNING_RATE = 1e-3  # peak of a long training
LANGUAGE_RATE = 5e-4  # of a language model
LONG_TRAINING = 2000  # steps; a shorter training cannot repair what large steps spoil at first, so its peak is lower
LONG_LANGUAGE_TRAINING = 50  # steps; every token of a batch has a target, so few steps see much
SMALL_DIVERGENCE = 0.023  # below it there is little to repair and large steps spoil more, so the peak is lower
WARM_UP = 0.06  # share of the steps


def peak_rate(problem: Problem, divergence: float) -> float:
    """Returns the peak learning rate of a long training.

    Args:
        problem: kind of output; numbers have no scale on which a divergence is small.
        divergence: held-out divergence of the pruned student before the training.
    """
    highest = LANGUAGE_RATE if problem == "language" else LEARNING_RATE
    return highest * (1.0 if problem == "regression" else min(1.0, divergence / SMALL_DIVERGENCE))


def long_training(problem: Problem) -> int:
    """Returns the number of steps from which on a training reaches its peak learning rate."""
    return LONG_LANGUAGE_TRAINING if problem == "language" else LONG_TRAINING


def learning_rate(step: int, steps: int, peak: float = LEARNING_RATE, long: int = LONG_TRAINING) -> float:
    """Returns the learning rate at a step, counted from 1: linear warm-up, then linear decay to 0.

    The rate never exceeds `peak`, and its maximum is lower in trainings of fewer than `long` steps.
    """
    warm_up = max(1, round(WARM_UP * steps))
    highest = peak * min(1.0, steps / long)
    return highest * min(step / warm_up, (steps - step + 1) / max(steps - warm_up, 1))
