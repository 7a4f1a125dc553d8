"""Validates the Trainer flags of `trimformer finetune`, which the Trainer itself does not check."""

import math
from pathlib import Path

from transformers import Trainer, TrainingArguments

from trimformer.errors import TrimformerError, one_sentence
from trimformer.options.checks import POSITIVE, SEED, Number

_BETA = Number(0, math.nextafter(1, 0), whole=False)
_RANGES = {
    "learning_rate": Number(0, 10, whole=False, open=True),
    "weight_decay": Number(0, 10, whole=False),
    "max_grad_norm": Number(0, 1e9, whole=False),
    "num_train_epochs": Number(0, 1e6, whole=False, open=True),
    "per_device_train_batch_size": POSITIVE,
    "per_device_eval_batch_size": POSITIVE,
    "gradient_accumulation_steps": POSITIVE,
    "seed": SEED,
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "adam_epsilon": Number(0, 1, whole=False, open=True),
    "label_smoothing_factor": Number(0, 1, whole=False),
    "dataloader_num_workers": Number(0, 1024),
}


def check_training_flags(training: TrainingArguments) -> None:
    """Checks the values of the Trainer's flags that it does not check before the work itself.

    Raises:
        TrimformerError: a number is out of range, the checkpoint is not a directory, the optimizer is not installed, or
            the device does not have the precision.
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
    if training.fp16 and training.device.type == "cpu":
        raise TrimformerError("--fp16 has no effect on a CPU; leave it out, or give --bf16")
    with one_sentence(f"--optim {getattr(training.optim, 'value', training.optim)} cannot be used"):
        Trainer.get_optimizer_cls_and_kwargs(training)  # imports the optimizer's package
