"""Samples that are encoded already: what a tokenizer, image processor or feature extractor made elsewhere."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import AUDIO_KEYS, IMAGE_KEYS, INPUT_KEYS, Features
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import NO_LIMIT, check_columns
from trimformer.data.tasks.sample_labels import LabelTask, label_fields, label_names, read_label
from trimformer.data.tasks.token_classification import UNLABELLED, token_scores
from trimformer.errors import TrimformerError
from trimformer.models import max_positions

MODEL_INPUTS = ("input_ids", "pixel_values", "input_values", "input_features")

_SPAN = ("start_positions", "end_positions")


@dataclass(frozen=True, kw_only=True)
class EncodedTask(LabelTask):
    """Rows that hold a model's inputs; they are handed through, without the padding that `attention_mask` tells of.

    Attributes:
        main_input: what every row must hold.
        choices: its ids are lists of lists, one list per choice.
        label_names: the model's classes by id, for scores of tokens.
    """

    main_input: str = "input_ids"
    choices: bool = False
    label_names: tuple[str, ...] = ()

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """The model's limit: nothing is cut here."""
        return min(self.max_length, max_positions(config, self.max_length))

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        spans = self.problem == "span" and all(key in rows[0] for key in _SPAN)
        label_column = self.label_column if any(self.label_column in row for row in rows) else None
        needed = (self.main_input, *([label_column] if label_column else []), *(_SPAN if spans else ()))
        check_columns(rows, needed)
        limit = self.length_limit(processor, config) if self.main_input == "input_ids" else NO_LIMIT
        features = []
        for number, row in numbered(rows):
            where = f"row {number}"
            sample = {key: _plain(row[key], f"'{key}' of {where}") for key in _INPUTS if row.get(key) is not None}
            if label_column:
                sample["labels"] = self._label(row[label_column], config, where)
            if spans:
                sample |= {key: _whole(row[key], where) for key in _SPAN}
            self._check(sample, limit, where)
            features.append(sample if self.choices else _unpadded(sample))
        return features

    def _label(self, value: Any, config: PreTrainedConfig, where: str) -> Any:
        if self.choices:
            return _whole(value, where)
        if self.problem != "tokens":
            return read_label(value, self.problem, config, where)
        if not np.ndim(value):
            raise TrimformerError(f"label {value} in {where} is no list; this model labels each token")
        labels, count = [_whole(label, where) for label in value], config.num_labels or 0
        wrong = next((label for label in labels if label != UNLABELLED and not 0 <= label < count), None)
        if wrong is not None:
            raise TrimformerError(f"label {wrong} in {where} is outside the model's {count} labels")
        return labels

    def _check(self, sample: Mapping[str, Any], limit: int, where: str) -> None:
        """Raises:
        TrimformerError: the row holds a batch, or more tokens than the model takes.
        """
        ids = sample.get("input_ids")
        if ids is None:
            return
        if not len(ids) or isinstance(ids[0], list) != self.choices:
            wanted = "a list of lists, one per choice" if self.choices else "a list of token ids"
            raise TrimformerError(
                f"'input_ids' of {where} is not {wanted}; give one sample per row, or the DataLoader itself"
            )
        longest = max(map(len, ids)) if self.choices else len(ids)
        if longest > limit:
            raise TrimformerError(f"{where} has {longest} tokens, but the model takes {limit}; cut them when encoding")
        if self.problem == "tokens" and "labels" in sample and len(sample["labels"]) != len(ids):
            raise TrimformerError(f"{where} has {len(ids)} tokens but {len(sample['labels'])} labels")

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        if self.problem == "tokens":
            return token_scores(outputs, features, self.label_names)
        return {} if self.problem == "span" else super().score(outputs, features, rows)


_INPUTS = (*INPUT_KEYS, *IMAGE_KEYS, *AUDIO_KEYS)


def _plain(value: Any, where: str) -> Any:
    """Lists of token ids; arrays of all else.

    Raises:
        TrimformerError: it holds no numbers.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
        if array.dtype.kind in "bui":
            return array.astype(int).tolist()
        if array.dtype.kind == "f":
            return torch.as_tensor(array.astype(np.float32))
    except (TypeError, ValueError, OverflowError):  # lists of choices that differ in length
        with suppress(TypeError, ValueError, OverflowError):
            if all(isinstance(item, list) for item in value):
                return [list(map(int, item)) for item in value]
    raise TrimformerError(f"{where} holds no numbers of a regular shape")


def _whole(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise TrimformerError(f"label {value} in {where} is not a whole number") from None


def _unpadded(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample without what its attention mask leaves out at the ends."""
    mask = sample.get("attention_mask")
    main = next((key for key in ("input_ids", *AUDIO_KEYS) if key in sample), None)
    if mask is None or main is None or len(mask) != len(sample[main]):
        return sample
    seen = np.flatnonzero(mask)
    if not len(seen):
        return sample
    start, stop = int(seen[0]), int(seen[-1]) + 1
    per_token = [key for key in (*INPUT_KEYS, *AUDIO_KEYS, "labels") if np.ndim(sample.get(key, 0))]
    cut = {key: sample[key][start:stop] for key in per_token if len(sample[key]) == len(mask)}
    moved = {key: max(sample[key] - start, 0) for key in _SPAN if key in sample}
    return {**sample, **cut, **moved}


def is_encoded(rows: Rows) -> bool:
    """Whether the rows hold a model's inputs."""
    return any(key in rows[0] for key in MODEL_INPUTS)


def encoded_task(
    problem: Problem, config: PreTrainedConfig, rows: Rows, main_input: str, head: str, label_column: str | None = None
) -> EncodedTask:
    """A task for rows that hold a model's inputs.

    Args:
        problem: kind of the model's output.
        config: of the model.
        rows: the user's samples.
        main_input: the first of the model's inputs.
        head: name of the model's class; masked language models and CTC have no labels here.
        label_column: None: `labels` or `label`, where they are there.
    """
    is_choice, per_token = head.endswith("ForMultipleChoice"), head.endswith("ForTokenClassification")
    found = label_fields(problem, rows, label_names(config), label_column)
    if per_token:
        column = label_column or next((name for name in ("labels", "label") if name in rows[0]), None)
        found |= {"label_column": column, "metric": "f1" if column else None}
    if is_choice:
        found["metrics"] = ("accuracy",)
    return EncodedTask(
        name="encoded",
        main_input=main_input,
        choices=is_choice,
        label_names=label_names(config),
        max_length=NO_LIMIT,
        **found,
    )
