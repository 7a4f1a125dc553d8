"""Validates the Trainer flags of `trimformer finetune`, which the Trainer itself does not check."""

import math
from pathlib import Path

from transformers import TrainingArguments

from trimformer.errors import TrimformerError
from trimformer.options.checks import POSITIVE, SEED, Number

_RANGES = {
    "learning_rate": Number(0, 10, whole=False, open=True),
    "weight_decay": Number(0, 10, whole=False),
    "max_grad_norm": Number(0, 1e9, whole=False),
    "num_train_epochs": Number(0, 1e6, whole=False, open=True),
    "per_device_train_batch_size": POSITIVE,
    "per_device_eval_batch_size": POSITIVE,
    "gradient_accumulation_steps": POSITIVE,
    "seed": SEED,
}


def check_training_flags(training: TrainingArguments) -> None:
    """Checks the values of the Trainer's numeric flags and of `--resume_from_checkpoint`.

    Raises:
        TrimformerError: a number is out of range, or the checkpoint is not a directory.
    """
    for name, number in _RANGES.items():
        value = getattr(training, name)
        try:
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise TrimformerError(f"{name} is {value}; give {number.description}")
            number.check(value, name)
        except TrimformerError as error:
            raise TrimformerError(f"--{error}") from None
    checkpoint = training.resume_from_checkpoint
    if checkpoint and not Path(checkpoint).is_dir():
        raise TrimformerError(f"--resume_from_checkpoint '{checkpoint}' is not a directory")
    if training.max_steps != -1 and training.max_steps < 1:
        raise TrimformerError(f"--max_steps is {training.max_steps}; give a positive number, or -1 for whole epochs")
