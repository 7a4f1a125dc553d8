"""Validates the Trainer flags of `trimformer finetune`, which the Trainer itself does not check."""

import math
from pathlib import Path

from transformers import TrainingArguments

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


def check_training_flags(training: TrainingArguments) -> None:
    """Checks the values of the Trainer's numeric flags and of `--resume_from_checkpoint`.

    Raises:
        TrimformerError: a number is out of range, or the checkpoint is not a directory.
    """
    for number in _NUMBERS:
        value = getattr(training, number.name)
        try:
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise TrimformerError(f"{number.name} is {value}; give {number.what}")
            number.check(value)
        except TrimformerError as error:
            raise TrimformerError(f"--{error}") from None
    checkpoint = training.resume_from_checkpoint
    if checkpoint and not Path(checkpoint).is_dir():
        raise TrimformerError(f"--resume_from_checkpoint '{checkpoint}' is not a directory")
    if training.max_steps != -1 and training.max_steps < 1:
        raise TrimformerError(f"--max_steps is {training.max_steps}; give a positive number, or -1 for whole epochs")
