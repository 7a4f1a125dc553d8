"""Samples to polish on: the calibration samples and more unlabelled ones; every eighth is held out."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from trimformer.data.batches import AUDIO_KEYS, BOXES, IMAGE_KEYS, INPUT_KEYS, Features, make_batches
from trimformer.data.conversations import needs_answers
from trimformer.data.language_blocks import BlockOptions, model_rows
from trimformer.data.outputs import max_batch_tokens
from trimformer.data.rows import DOCUMENT, as_rows, shuffled_rows
from trimformer.data.shared_passages import hold_passages
from trimformer.data.splits import divide, find_splits, read_splits, separate_documents
from trimformer.data.tasks import EmbeddingTask, SpanTask, Task, TextTask, task_of
from trimformer.data.tasks.blank_rows import drop_blank_rows
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import LABEL_KEYS, NEXT_TOKENS, Batch
from trimformer.options.data import DataOptions
from trimformer.options.methods import Method
from trimformer.options.polish import PolishBudget, PolishOptions, check_seconds, epochs_of_passes, parse_budget
from trimformer.refit.regression_moments import HELD_OUT_EVERY
from trimformer.utils.distributed import shard, world_size

logger = logging.getLogger(__name__)

# Fields of a task that name its label columns, with their values for unlabelled rows.
_NO_LABELS: dict[str, Any] = {"label_column": None, "tags_column": None, "score_column": None, "indicator_columns": ()}


@dataclass(frozen=True)
class PolishInputs:
    """Samples and budget of a polish.

    Attributes:
        batches: this process's part of the samples to train on; every process has as many batches.
        held_out: this process's part of the held-out samples.
        budget: forward passes or seconds to spend.
        only_calibration: the held-out samples are calibration samples, so the refit must not use them.
    """

    batches: list[Batch]
    held_out: list[Batch]
    budget: PolishBudget
    only_calibration: bool = False

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
    """Batches the calibration samples and more data; holds out every eighth sample and drops duplicates.

    If at least half of the samples are new, only new ones are held out, as the refit has used the calibration samples:
    blocks of tokens by document, where there are `HELD_OUT_EVERY` documents or more.

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
    more = _without(encoded, left_out) if encoded else []
    if len(more) < len(encoded):
        logger.info("%d samples of the polish data are scored or judged, and not trained on", len(encoded) - len(more))
    samples: dict[bytes, Features] = {}
    places: dict[bytes, list[int]] = {}  # every position at which a sample occurs
    for i, sample in enumerate([*without_labels(features), *more]):
        key = _digest(sample)
        samples.setdefault(key, sample)
        places.setdefault(key, []).append(i)
    divided = _divide_documents(more, features)
    new = {key for key, positions in places.items() if positions[0] >= len(features)}
    only_new = 2 * len(new) >= len(samples)
    parts: tuple[list[Features], list[Features]] = [], []  # to train on, held out
    for key, positions in places.items():
        # The refit holds out positions: a repeated calibration sample is held out only if all its positions are.
        checked = positions[:1] if key in new else [i for i in positions if i < len(features)]
        held_out = (key in new or not only_new) and all(i % HELD_OUT_EVERY == 0 for i in checked)
        if key in new and divided is not None:
            held_out = (place := positions[0] - len(features)) in divided[0]
            if not held_out and place not in divided[1]:
                continue
        parts[held_out].append(samples[key])
    if len(samples) < batch_size:
        raise TrimformerError(
            f"{len(samples)} different samples to polish on are fewer than a batch of {batch_size}; give more "
            "polish data or lower the batch size"
        )
    batches, held_out_batches = (
        make_batches(part, processor, batch_size, model.device, max_batch_tokens(model)) for part in parts
    )
    if min(len(batches), len(held_out_batches)) < world_size():
        raise TrimformerError(
            f"{len(samples)} different samples to polish on make {len(held_out_batches)} held-out batches, fewer than "
            f"the {world_size()} processes; lower the batch size"
        )
    return PolishInputs(
        shard(batches)[: len(batches) // world_size()], shard(held_out_batches), budget, only_calibration=not only_new
    )


def encode_unlabelled(
    model: PreTrainedModel, processor: Any, task: Task, data: Any, blocks: BlockOptions | None = None
) -> list[Features]:
    """Encodes examples for the model's task, without labels; guesses columns that have other names.

    Args:
        model: the model, for its configuration and device.
        processor: its tokenizer or processor.
        task: task of the calibration samples.
        data: the examples.
        blocks: see `draw_polish_inputs`.

    Raises:
        TrimformerError: the examples cannot be read or are of another task.
    """
    try:
        blocks = blocks or BlockOptions.of(DataOptions(), task=task)
        rows = as_rows(data, "polish_data")
        blocks = replace(blocks, most_prompts=None)
        if len(rows) and not all(column in rows[0] for column in blocks.columns or ()):
            blocks = replace(blocks, columns=None)
        if blocks.generate and len(rows) and not blocks.columns and not needs_answers(rows[0]):
            blocks = replace(blocks, generate=None)
            logger.info("polish data are used with the answers that they hold, or as documents: none is generated")
        rows = model_rows(model, processor, rows, blocks)
        if not len(rows):
            raise TrimformerError("it has no rows")
        unlabelled = _unlabelled(task)
        if not all(column in rows[0] for column in _columns(unlabelled)):
            unlabelled = _unlabelled(replace(task_of(model, rows), max_length=task.max_length))
            if not _same_samples(unlabelled, task):
                raise TrimformerError(f"its task is '{unlabelled.name}', but the model's task is '{task.name}'")
        if isinstance(unlabelled, SpanTask):
            rows = [{**row, "answers": None} for row in rows]
        encoded = unlabelled.encode(drop_blank_rows(rows, unlabelled, "rows to polish on"), processor, model.config)
    except TrimformerError as error:
        raise TrimformerError(f"polish data cannot be used: {error}") from error
    return without_labels(encoded)


def _divide_documents(more: Sequence[Features], calibrated: Sequence[Features]) -> tuple[set[int], set[int]] | None:
    """Returns the positions of the further blocks of tokens to hold out, and of those to train on.

    An eighth of the blocks is held out, of documents that are neither calibrated nor trained on. None if the samples
    are no blocks, or of few documents.
    """
    if not more or not all(DOCUMENT in block for block in more):
        return None
    documents = [block[DOCUMENT] for block in more]
    used = {document for document, is_used in zip(documents, hold_passages(more, calibrated), strict=True) if is_used}
    order = [i for i in shuffled_rows(more, np.random.default_rng(0)) if documents[i] not in used]
    if len({documents[i] for i in order}) < HELD_OUT_EVERY:
        return None
    chosen, _ = divide(order, len(more) // HELD_OUT_EVERY, documents)
    held_out, trained = separate_documents(chosen, sorted(set(range(len(more))) - set(chosen)), more)
    return set(held_out), set(trained)


def _without(encoded: Sequence[Features], left_out: Sequence[Features]) -> list[Features]:
    """Returns the samples that do not equal one that is left out, and hold no passage of its tokens."""
    unseen = set(map(_digest, left_out))
    more = [sample for sample in encoded if _digest(sample) not in unseen]
    if not left_out or NEXT_TOKENS not in left_out[0]:
        return more
    return [sample for sample, is_seen in zip(more, hold_passages(more, left_out), strict=True) if not is_seen]


def _same_samples(unlabelled: Task, task: Task) -> bool:
    """Returns whether samples of one task can stand beside those of another; texts to embed come in any columns."""
    if isinstance(task, EmbeddingTask):
        return isinstance(unlabelled, EmbeddingTask)
    same = isinstance(unlabelled, TextTask) if isinstance(task, TextTask) else type(unlabelled) is type(task)
    return same and len(_columns(unlabelled)) == len(_columns(_unlabelled(task)))


def without_labels(features: Sequence[Features]) -> list[Features]:
    """Returns the samples without their labels."""
    return [{key: value for key, value in sample.items() if key not in LABEL_KEYS} for sample in features]


def _digest(sample: Features) -> bytes:
    """Hashes a sample's inputs, so that no input is both trained on and held out."""
    digest = hashlib.sha256()
    for key, value in sample.items():
        if key in (*INPUT_KEYS, BOXES):  # a list of lists of different lengths for multiple choice
            digest.update(str(value.tolist() if hasattr(value, "tolist") else value).encode())
        elif key in (*IMAGE_KEYS, *AUDIO_KEYS):
            digest.update(np.asarray(value).tobytes())
    return digest.digest()


def read_polish_data(options: PolishOptions) -> PolishOptions:
    """Replaces the path in the options by the rows of that file or of that folder's training split.

    Raises:
        TrimformerError: the path cannot be read, or the folder has no training split.
    """
    path = options.polish_data
    if path is None:
        return options
    rows, _ = find_splits(read_splits(path), need_train=False)
    if not len(rows):
        raise TrimformerError(f"polish data '{path}' has no 'train' split; name a file")
    return replace(options, polish_data=rows)


def _unlabelled(task: Task) -> Task:
    """Returns the task without its label columns."""
    names = {field.name for field in fields(task)}
    return replace(task, **{name: value for name, value in _NO_LABELS.items() if name in names})


def _columns(task: Task) -> list[str]:
    """Returns the names of the columns that the task reads."""
    columns: list[str] = []
    for field in fields(task):
        value = getattr(task, field.name)
        if value and field.name.endswith(("_column", "_columns")):
            columns += [value] if isinstance(value, str) else value
    return columns


def check_polish_inputs(method: Method, polishing: PolishInputs | None) -> None:
    """Checks that polish inputs are given if, and only if, the method polishes.

    Raises:
        TrimformerError: the method polishes and there are no inputs, or the reverse.
    """
    if method.polish != (polishing is not None):
        raise TrimformerError(
            "a method that polishes needs samples to polish on, and other methods accept none; give both or neither"
        )
