"""Tasks on rows that are already encoded by a tokenizer, image processor or feature extractor."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import AUDIO_KEYS, BOXES, IGNORED, IMAGE_KEYS, INPUT_KEYS, Features
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import NO_LIMIT, check_columns
from trimformer.data.tasks.label_reader import LabelReader
from trimformer.data.tasks.multiple_choice import choice_scores
from trimformer.data.tasks.sample_labels import LabelTask, label_fields, label_names
from trimformer.data.tasks.token_classification import token_scores
from trimformer.errors import TrimformerError, quoted
from trimformer.models import max_positions

MODEL_INPUTS = ("input_ids", "pixel_values", "input_values", "input_features")

_POSITIONS = ("start_positions", "end_positions")
_INPUTS = (*INPUT_KEYS, BOXES, *IMAGE_KEYS, *AUDIO_KEYS)


@dataclass(frozen=True, kw_only=True)
class EncodedTask(LabelTask):
    """Rows that hold a model's inputs, as another program encoded them; padding is removed by `attention_mask`.

    Attributes:
        main_input: name of the input that every row must hold.
        choices: whether the inputs are lists of lists, one per choice.
        label_names: the model's classes, ordered by id, to score tokens with.
    """

    main_input: str = "input_ids"
    choices: bool = False
    label_names: tuple[str, ...] = ()

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """Returns the model's limit; longer rows are an error, as nothing is truncated here."""
        return min(self.max_length, max_positions(config, self.max_length))

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`."""
        spans = self.problem == "span" and all(key in rows[0] for key in _POSITIONS)
        label_column = self.label_column if any(self.label_column in row for row in rows) else None
        required = (self.main_input, *([label_column] if label_column else []), *(_POSITIONS if spans else ()))
        check_columns(rows, required)
        limit = self.length_limit(processor, config) if self.main_input == "input_ids" else NO_LIMIT
        reader = None
        if label_column and not self.choices:
            reader = LabelReader(self.problem, config, rows, label_column, self.reading, encoded=True)
        features = []
        for number, row in numbered(rows):
            where = f"row {number}"
            sample = {key: _read_input(row[key], f"'{key}' of {where}") for key in _INPUTS if row.get(key) is not None}
            if label_column:
                sample["labels"] = self._read_label(row[label_column], reader, where)
            if spans:
                sample |= {key: _read_integer(row[key], where) for key in _POSITIONS}
            self._check_token_ids(sample, limit, where)
            features.append(_strip_choices(sample) if self.choices else _strip_padding(sample))
        return features

    def _read_label(self, value: Any, reader: LabelReader | None, where: str) -> Any:
        if reader is None:
            return _read_integer(value, where)
        if self.problem != "tokens":
            return reader.read(value, where)
        if not np.ndim(value):
            raise TrimformerError(f"label {quoted(value)} in {where} is not a list; this model labels each token")
        labels = value.tolist() if hasattr(value, "tolist") else value
        return [IGNORED if label == IGNORED else reader.class_id(label, where) for label in labels]

    def _check_token_ids(self, sample: Mapping[str, Any], limit: int, where: str) -> None:
        """Checks the number and nesting of a row's token ids; rows without token ids pass.

        Raises:
            TrimformerError: the row holds a batch, more tokens than the model accepts, or another number of labels.
        """
        ids = sample.get("input_ids")
        if ids is None:
            return
        if not len(ids) or isinstance(ids[0], list) != self.choices:
            expected = "a list of lists, one per choice" if self.choices else "a list of token ids"
            raise TrimformerError(
                f"'input_ids' of {where} is not {expected}; give one sample per row, or pass your DataLoader"
            )
        longest = max(map(len, ids)) if self.choices else len(ids)
        if longest > limit:
            raise TrimformerError(
                f"{where} has {longest} tokens, but the model accepts {limit}; truncate when encoding"
            )
        if self.choices and not 0 <= sample.get("labels", 0) < len(ids):
            raise TrimformerError(
                f"label {sample['labels']} in {where} is none of its {len(ids)} choices, which are counted from 0"
            )
        if self.problem == "tokens" and "labels" in sample and len(sample["labels"]) != len(ids):
            raise TrimformerError(f"{where} has {len(ids)} tokens but {len(sample['labels'])} labels")

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """See `Task.score`; encoded question answering has no score, as the texts are unknown."""
        if self.problem == "tokens":
            return token_scores(outputs, features, self.label_names)
        if self.choices:
            return choice_scores(outputs, features)
        return {} if self.problem == "span" else super().score(outputs, features, rows)


def _read_input(value: Any, where: str) -> Any:
    """Converts integers to nested lists and other numbers to a float32 tensor.

    Raises:
        TrimformerError: the value does not hold numbers of a regular shape.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
        if array.dtype.kind in "bui":
            return array.astype(int).tolist()
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise TrimformerError(f"{where} holds values that are not finite in float32; correct them")
            return torch.as_tensor(array)
    except (TypeError, ValueError, OverflowError):  # perhaps choices of different lengths
        with suppress(TypeError, ValueError, OverflowError):
            if all(isinstance(item, list) for item in value):
                return [list(map(int, item)) for item in value]
    raise TrimformerError(f"{where} does not hold numbers of a regular shape")


def _read_integer(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise TrimformerError(f"label {quoted(value)} in {where} is not an integer") from None


def _strip_choices(sample: dict[str, Any]) -> dict[str, Any]:
    """Returns the sample without the padding of each choice."""
    per_choice = [key for key in INPUT_KEYS if key in sample and isinstance(sample[key][0], list)]
    choices = [_strip_padding(dict(zip(per_choice, parts, strict=True)))
               for parts in zip(*(sample[key] for key in per_choice), strict=True)]  # fmt: skip
    return {**sample, **{key: [choice[key] for choice in choices] for key in per_choice}}


def _strip_padding(sample: dict[str, Any]) -> dict[str, Any]:
    """Returns the sample without the positions at either end that its attention mask excludes."""
    mask = sample.get("attention_mask")
    main = next((key for key in ("input_ids", *AUDIO_KEYS) if key in sample), None)
    if mask is None or main is None or len(mask) != len(sample[main]):
        return sample
    attended = np.flatnonzero(mask)
    if not len(attended):
        return sample
    start, stop = int(attended[0]), int(attended[-1]) + 1
    per_token = [key for key in (*INPUT_KEYS, BOXES, *AUDIO_KEYS, "labels") if np.ndim(sample.get(key, 0))]
    stripped = {key: sample[key][start:stop] for key in per_token if len(sample[key]) == len(mask)}
    shifted = {key: max(sample[key] - start, 0) for key in _POSITIONS if key in sample}
    return {**sample, **stripped, **shifted}


def is_encoded(rows: Rows) -> bool:
    """Returns whether the rows hold a model's inputs."""
    return any(key in rows[0] for key in MODEL_INPUTS)


def encoded_task(
    problem: Problem, config: PreTrainedConfig, rows: Rows, main_input: str, head: str, label_column: str | None = None
) -> EncodedTask:
    """Creates a task for rows that hold a model's inputs.

    Args:
        problem: kind of model output.
        config: the model's configuration.
        rows: the user's samples.
        main_input: the model's main input (`model.main_input_name`).
        head: name of the model's class; labels of masked language models and CTC are ignored.
        label_column: column of labels; None: guessed from the usual names, for tokens only `labels` and `label`.
    """
    is_choice, per_token = head.endswith("ForMultipleChoice"), head.endswith("ForTokenClassification")
    fields = label_fields(problem, rows, label_names(config), label_column)
    if per_token:
        column = label_column or next((name for name in ("labels", "label") if name in rows[0]), None)
        fields |= {"label_column": column, "metric": "f1" if column else None}
    if is_choice:
        fields["metrics"] = ("accuracy",)
    return EncodedTask(
        name="encoded",
        main_input=main_input,
        choices=is_choice,
        label_names=label_names(config),
        max_length=NO_LIMIT,
        **fields,
    )
