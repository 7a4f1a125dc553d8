"""Fine-tuning on the Hugging Face Trainer, before pruning or after it."""

import importlib.util
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from trimformer.calibration import LABEL_KEYS, Features, collate
from trimformer.errors import TrimformerError


def require_train_extra() -> None:
    """Raises:
    TrimformerError: what the Trainer needs is not installed.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise TrimformerError("fine-tuning needs the 'train' extra: pip install 'trimformer[train]'")


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Features],
    arguments: TrainingArguments,
) -> None:
    """Trains the model in place on encoded samples with labels; a shrunk model keeps its widths.

    Args:
        model: with a task head.
        tokenizer: its tokenizer.
        features: what `Task.encode` gives.
        arguments: of the Trainer.

    Raises:
        TrimformerError: a sample has no label, or the `train` extra is not installed.
    """
    require_train_extra()
    from transformers import Trainer

    if not any(key in features[0] for key in LABEL_KEYS):
        raise TrimformerError("the training data has no labels")
    arguments.remove_unused_columns = False  # our collator picks what it needs
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=list(features),  # type: ignore[arg-type]
        data_collator=lambda samples: collate(samples, tokenizer),
    )
    trainer.train()
    model.eval()
