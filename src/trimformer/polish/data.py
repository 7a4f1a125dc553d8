"""Samples to polish on: those that calibrated, and more of the user's without their labels; an eighth is held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from trimformer.data.batches import AUDIO_KEYS, IMAGE_KEYS, INPUT_KEYS, Features, make_batches
from trimformer.data.rows import as_rows
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import SpanTask, Task, task_of
from trimformer.data.tasks.blank_rows import drop_blank_rows
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import LABEL_KEYS, Batch
from trimformer.options.methods import Method
from trimformer.options.polish import PolishBudget, PolishOptions, epochs_of_passes, parse_budget
from trimformer.refit.regression_moments import HELD_OUT_EVERY
from trimformer.utils.distributed import shard, world_size

# Where a task says which column holds labels, and what it says where none does.
_NO_LABELS: dict[str, Any] = {"label_column": None, "tags_column": None, "score_column": None, "indicator_columns": ()}


@dataclass(frozen=True)
class PolishInputs:
    """What a polish works on.

    Attributes:
        batches: to train on, this process's part; as many in every process.
        held_out: to measure on, this process's part.
        budget: to spend.
        only_calibration: all of these samples are calibration samples, so those held out judge only what was refitted
            without them.
    """

    batches: list[Batch]
    held_out: list[Batch]
    budget: PolishBudget
    only_calibration: bool = False

    def check_affordable(self, share: float) -> None:
        """Before the long work: tells of a budget in passes below an epoch.

        Args:
            share: of the dense model's MACs that is to be kept.

        Raises:
            TrimformerError: it is.
        """
        if self.budget.passes is not None:
            epochs_of_passes(self.budget, share)


def draw_polish_inputs(
    model: PreTrainedModel,
    processor: Any,
    task: Task,
    features: Sequence[Features],
    options: PolishOptions | None = None,
    batch_size: int = 32,
) -> PolishInputs:
    """Batches of the calibration samples and of more data, every eighth sample held out; equal ones count once.

    Args:
        model: gives configuration and device.
        processor: its tokenizer or processor.
        task: what the calibration samples mean.
        features: the calibration samples, encoded; those that its refit held out are held out here too.
        options: more examples, in any form that `as_rows` takes, and the budget.
        batch_size: samples in a batch, at most.

    Raises:
        TrimformerError: the data do not fit the model's task, there are too few samples, or the budget is none.
    """
    options = options or PolishOptions()
    data, spend = options.polish_data, parse_budget(options.polish_budget, options.polish_stoppable)
    more = [] if data is None else encode_unlabelled(model, processor, task, data)
    samples: dict[bytes, tuple[int, Features]] = {}
    for i, sample in enumerate([*without_labels(features), *more]):
        samples.setdefault(_digest(sample), (i, sample))
    chosen, left = ([s for i, s in samples.values() if (i % HELD_OUT_EVERY > 0) is used] for used in (True, False))
    if len(samples) < batch_size:
        raise TrimformerError(
            f"{len(samples)} different samples to polish on are fewer than a batch of {batch_size}; give more "
            "as polish data, or lower the batch size"
        )
    batches, held_out = (make_batches(of, processor, batch_size, model.device) for of in (chosen, left))
    if min(len(batches), len(held_out)) < world_size():
        raise TrimformerError(
            f"{len(samples)} different samples to polish on make {len(held_out)} held-out batches, too few for "
            f"{world_size()} processes; lower the batch size"
        )
    return PolishInputs(
        shard(batches)[: len(batches) // world_size()], shard(held_out), spend, only_calibration=data is None
    )


def encode_unlabelled(model: PreTrainedModel, processor: Any, task: Task, data: Any) -> list[Features]:
    """The examples as the model's task reads them, without labels; columns of other names are guessed.

    Raises:
        TrimformerError: they are of another kind, or cannot be read.
    """
    try:
        rows = as_rows(data, "polish_data")
        if not len(rows):
            raise TrimformerError("it has no rows")
        own = _unlabelled(task)
        if not all(column in rows[0] for column in _columns(own)):
            own = _unlabelled(replace(task_of(model, rows), max_length=task.max_length))
            if type(own) is not type(task) or len(_columns(own)) != len(_columns(_unlabelled(task))):
                raise TrimformerError(f"it holds samples of '{own.name}', and the model's are of '{task.name}'")
        if isinstance(own, SpanTask):
            rows = [{**row, "answers": None} for row in rows]
        encoded = own.encode(drop_blank_rows(rows, own, "rows to polish on"), processor, model.config)
    except TrimformerError as error:
        raise TrimformerError(f"polish data cannot be used: {error}") from error
    return without_labels(encoded)


def without_labels(features: Sequence[Features]) -> list[Features]:
    """The inputs alone."""
    return [{key: value for key, value in sample.items() if key not in LABEL_KEYS} for sample in features]


def _digest(sample: Features) -> bytes:
    """The same for equal inputs, so that no sample is both trained on and held out."""
    digest = hashlib.sha256()
    for key, value in sample.items():
        if key in INPUT_KEYS:  # choices are lists of different lengths
            digest.update(str(value.tolist() if hasattr(value, "tolist") else value).encode())
        elif key in (*IMAGE_KEYS, *AUDIO_KEYS):
            digest.update(np.asarray(value).tobytes())
    return digest.digest()


def read_polish_data(options: PolishOptions) -> PolishOptions:
    """The options with the rows of the file that they name, or of a folder's training split.

    Raises:
        TrimformerError: nothing there can be read.
    """
    path = options.polish_data
    if path is None:
        return options
    rows, _ = find_splits(read_splits(path), need_train=False)
    if not len(rows):
        raise TrimformerError(f"polish data '{path}' has no 'train' split; name a file")
    return replace(options, polish_data=rows)


def _unlabelled(task: Task) -> Task:
    known = {field.name for field in fields(task)}
    return replace(task, **{name: value for name, value in _NO_LABELS.items() if name in known})


def _columns(task: Task) -> list[str]:
    """The columns that the task reads."""
    found: list[str] = []
    for field in fields(task):
        value = getattr(task, field.name)
        if value and field.name.endswith(("_column", "_columns")):
            found += [value] if isinstance(value, str) else value
    return found


def check_polish_inputs(method: Method, polishing: PolishInputs | None) -> None:
    """Raises:
    TrimformerError: the method polishes and there is nothing to polish on, or the other way round.
    """
    if method.polish != (polishing is not None):
        raise TrimformerError(
            "a method that polishes needs samples to polish on, and no other takes them: give both or neither"
        )
