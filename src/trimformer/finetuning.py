"""Fine-tuning with the Hugging Face Trainer, before or after pruning."""

import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from trimformer.checkpoints.checkpoint_checks import check_finite_weights
from trimformer.data.batches import Features, collate
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models.layer_calls import LABEL_KEYS
from trimformer.polish.train import in_float32
from trimformer.utils.packages import check_packages

logger = logging.getLogger(__name__)


def check_train_extra() -> None:
    """Checks that the packages that the Trainer needs are installed.

    Raises:
        TrimformerError: the `train` extra is not installed.
    """
    check_packages("fine-tuning needs", ("accelerate",), "train")


class _LogCallback(TrainerCallback):
    """Sends the Trainer's metrics to the log."""

    def on_log(self, *_: Any, **kwargs: Any) -> None:
        numbers = (f"{key} {value:.4g}" for key, value in kwargs["logs"].items() if key != "total_flos")
        logger.info("training: %s", ", ".join(numbers))


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Features],
    arguments: TrainingArguments,
    eval_features: Sequence[Features] | None = None,
) -> None:
    """Trains the model in place on encoded samples with labels; a pruned model keeps its widths.

    Half-precision weights are trained in float32 and rounded at the end, as they are too coarse for small steps.

    Args:
        model: model with a task head.
        tokenizer: the model's tokenizer.
        features: training samples from `Task.encode`.
        arguments: the Trainer's arguments.
        eval_features: samples on which the Trainer evaluates the loss, if its evaluation strategy asks for it.

    Raises:
        TrimformerError: the samples have no labels, the Trainer rejects the arguments, the training diverged, or the
            `train` extra is not installed.
    """
    check_train_extra()
    from transformers import PrinterCallback, Trainer

    if not any(key in features[0] for key in LABEL_KEYS):
        raise TrimformerError("the training data has no labels")
    if arguments.label_smoothing_factor and "labels" not in features[0]:
        raise TrimformerError("--label_smoothing_factor has no effect on questions and answers; leave it out")
    arguments.remove_unused_columns = False  # `collate` selects the inputs
    with one_sentence("the training flags cannot be used"):
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=list(features),  # type: ignore[arg-type]
            eval_dataset=None if eval_features is None else list(eval_features),  # type: ignore[arg-type]
            data_collator=lambda samples: collate(samples, tokenizer),
            callbacks=[_LogCallback()],
        )
    trainer.remove_callback(PrinterCallback)  # standard output is reserved for the scores
    logger.info("training on %d samples ...", len(features))
    with in_float32(model):
        trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    model.eval()
    check_finite_weights(model, "the training diverged: the weights")
