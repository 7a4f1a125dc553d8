"""Which of the Trainer's flags can be meant."""

import math
from pathlib import Path
from typing import Any

from trimformer.errors import TrimformerError
from trimformer.options.checks import Number

_NUMBERS = (
    Number("learning_rate", 0, 10, whole=False, above=True),
    Number("weight_decay", 0, 10, whole=False),
    Number("max_grad_norm", 0, 1e9, whole=False),
    Number("num_train_epochs", 0, 1e6, whole=False, above=True),
    Number("per_device_train_batch_size"),
    Number("per_device_eval_batch_size"),
    Number("gradient_accumulation_steps"),
    Number("seed", 0, 2**32 - 1),
)


def check_training(training: Any) -> None:
    """Checks the flags that the Trainer takes as they are.

    Raises:
        TrimformerError: one is no number that can be trained with.
    """
    for number in _NUMBERS:
        value = getattr(training, number.name)
        try:
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise TrimformerError(f"{number.name} is {value}; give {number.what}")
            number.check(value)
        except TrimformerError as error:
            raise TrimformerError(f"--{error}") from None
    resumed = training.resume_from_checkpoint
    if resumed and not Path(resumed).is_dir():
        raise TrimformerError(f"--resume_from_checkpoint '{resumed}' is no directory")
    if training.max_steps != -1 and training.max_steps < 1:
        raise TrimformerError(f"--max_steps is {training.max_steps}; give a positive number, or -1 for whole epochs")
