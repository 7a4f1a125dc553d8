"""Samples to polish on, in batches, and the budget: the calibration samples and more unlabelled ones."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from trimformer.data.batches import Features, make_batches
from trimformer.data.block_options import BlockOptions
from trimformer.data.outputs import max_batch_tokens
from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import Batch
from trimformer.options.methods import Method
from trimformer.options.polish import PolishBudget, PolishOptions, check_seconds, epochs_of_passes, parse_budget
from trimformer.polish.held_out_samples import divide_samples, without_left_out
from trimformer.polish.unlabelled_rows import encode_unlabelled, without_labels
from trimformer.utils.distributed import shard, world_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolishInputs:
    """Samples and budget of a polish.

    Attributes:
        batches: this process's part of the samples to train on; every process has as many batches.
        held_out: this process's part of the held-out samples.
        budget: forward passes or seconds to spend.
        holds_out_calibration: calibration samples are among the held-out ones, so the refit must not use these.
    """

    batches: list[Batch]
    held_out: list[Batch]
    budget: PolishBudget
    holds_out_calibration: bool = False

    def check_affordable(self, share: float, pass_seconds: Callable[[], float]) -> None:
        """Checks, before the long work, that the budget pays for one epoch; of seconds, only that it is not far below.

        Args:
            share: share of the dense model's MACs to keep.
            pass_seconds: seconds of a dense forward pass over the samples; called where the budget is in seconds.

        Raises:
            TrimformerError: the budget pays for less than one epoch.
        """
        if self.budget.passes is not None:
            epochs_of_passes(self.budget, share)
        else:
            check_seconds(self.budget, share, pass_seconds())


def draw_polish_inputs(
    model: PreTrainedModel,
    processor: Any,
    task: Task,
    features: Sequence[Features],
    options: PolishOptions | None = None,
    batch_size: int = 32,
    left_out: Sequence[Features] = (),
    blocks: BlockOptions | None = None,
) -> PolishInputs:
    """Batches the calibration samples and more data, divided by `divide_samples`.

    Args:
        model: the model, for its configuration and device.
        processor: the model's tokenizer or processor.
        task: task of the calibration samples.
        features: the encoded calibration samples; those that the refit holds out are held out here, too.
        options: more examples in any form that `as_rows` accepts, whose labels are ignored, and the budget.
        batch_size: number of samples in a batch, at most.
        left_out: encoded samples to score on or to test a target on; further samples that equal one, or are blocks of
            tokens with a passage of one, are left out.
        blocks: how a language model's rows become blocks; None: as the task and the usual names of columns tell.

    Raises:
        TrimformerError: the data do not fit the model's task, there are too few samples, or the budget is not valid.
    """
    options = options or PolishOptions()
    data, budget = options.polish_data, parse_budget(options.polish_budget, options.polish_stoppable)
    encoded = [] if data is None else encode_unlabelled(model, processor, task, data, blocks)
    more = without_left_out(encoded, left_out) if encoded else []
    if len(more) < len(encoded):
        logger.info("%d samples of the polish data are scored or judged, and not trained on", len(encoded) - len(more))
    divided = divide_samples(without_labels(features), more)
    count = len(divided.train) + len(divided.held_out)
    if count < batch_size:
        raise TrimformerError(
            f"{count} different samples to polish on are fewer than a batch of {batch_size}; give more polish data or "
            "lower the batch size"
        )
    batches, held_out_batches = (
        make_batches(part, processor, batch_size, model.device, max_batch_tokens(model))
        for part in (divided.train, divided.held_out)
    )
    if min(len(batches), len(held_out_batches)) < world_size():
        raise TrimformerError(
            f"{count} different samples to polish on make {len(held_out_batches)} held-out batches, fewer than "
            f"the {world_size()} processes; lower the batch size"
        )
    train = shard(batches)[: len(batches) // world_size()]
    return PolishInputs(train, shard(held_out_batches), budget, divided.holds_out_calibration)


def check_polish_inputs(method: Method, polishing: PolishInputs | None) -> None:
    """Checks that polish inputs are given if, and only if, the method polishes.

    Raises:
        TrimformerError: the method polishes and there are no inputs, or the reverse.
    """
    if method.polish != (polishing is not None):
        raise TrimformerError(
            "a method that polishes needs samples to polish on, and other methods accept none; give both or neither"
        )
