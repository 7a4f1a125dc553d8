"""Fine-tuning on the Hugging Face Trainer, before pruning or after it."""

import tempfile
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.calibration import Features, collate
from trimformer.errors import TrimformerError


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Features],
    *,
    learning_rate: float = 5e-5,
    num_train_epochs: float = 3.0,
    per_device_train_batch_size: int = 32,
    warmup_ratio: float = 0.06,
    weight_decay: float = 0.01,
    seed: int = 42,
    **training_arguments: Any,
) -> None:
    """Trains the model in place on encoded samples with labels; a shrunk model keeps its widths.

    Args:
        model: with a task head.
        tokenizer: its tokenizer.
        features: what `Task.encode` gives.
        learning_rate: peak of the linear schedule.
        num_train_epochs: passes over the samples.
        per_device_train_batch_size: samples in a step.
        warmup_ratio: share of the steps in which the learning rate rises.
        weight_decay: of AdamW.
        seed: for the order of the samples and dropout.
        **training_arguments: any other field of `transformers.TrainingArguments`.

    Raises:
        TrimformerError: the `train` extra is not installed.
    """
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise TrimformerError("fine-tuning needs the 'train' extra: pip install 'trimformer[train]'") from error
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=learning_rate,
            num_train_epochs=num_train_epochs,
            per_device_train_batch_size=per_device_train_batch_size,
            warmup_steps=warmup_ratio,
            weight_decay=weight_decay,
            seed=seed,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            **training_arguments,
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=list(features),
            data_collator=lambda samples: collate(samples, tokenizer),
        ).train()
    model.eval()
