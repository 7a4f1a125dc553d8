"""Encodes rows for a model, and checks that it gets every input that it reads."""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimformer.data.batches import AUDIO_KEYS, BOXES, IMAGE_KEYS, INPUT_KEYS, Features
from trimformer.data.outputs import find_problem
from trimformer.data.processor import check_padding_side, find_tokenizer, tokenize
from trimformer.data.rows import Rows
from trimformer.data.tasks import Task
from trimformer.data.tasks.encoded import is_encoded
from trimformer.errors import TrimformerError, listed
from trimformer.models.layer_calls import LABEL_KEYS

_PASSED_ON = {*INPUT_KEYS, BOXES, *IMAGE_KEYS, *AUDIO_KEYS, *LABEL_KEYS}
# Read for a loss only, or not for the outputs.
_WITHOUT_EFFECT = {"return_loss", "num_items_in_batch", "next_sentence_label", "sentence_order_label",
                   "bbox_first_token_mask", "noise"}  # fmt: skip


def encode_rows(task: Task, rows: Rows, model: PreTrainedModel, processor: Any) -> Sequence[Features]:
    """Checks and encodes rows for a model; see `check_inputs` and `Task.encode` for what they raise."""
    check_inputs(model, processor, rows, are_encoded=is_encoded(rows))
    return task.encode(rows, processor, model.config)


def check_inputs(model: PreTrainedModel, processor: Any, rows: Rows, *, are_encoded: bool) -> None:
    """Checks that no input of the model is left out, and that outputs for each token are read where they are.

    Args:
        model: reads the rows.
        processor: its tokenizer or processor.
        rows: samples as they were read.
        are_encoded: whether these hold the model's inputs, rather than what its processor encodes.

    Raises:
        TrimformerError: the rows or the tokenizer give an input that would not be passed on, the rows lack boxes that
            the model reads, or the tokenizer pads on the left and the model labels tokens.
    """
    tokenizer = find_tokenizer(processor)
    reads, name = inspect.signature(type(model).forward).parameters, type(model).__name__
    given: set[str] = set()
    if are_encoded:
        given = {key for row in rows for key, value in row.items() if value is not None}
    elif tokenizer is not None:
        with suppress(TrimformerError):  # a tokenizer that takes no bare text; the task's own call of it says why
            given = set(tokenize(tokenizer, "a"))
    if BOXES in reads and not (are_encoded and all(row.get(BOXES) is not None for row in rows)):
        raise TrimformerError(
            f"{name} reads '{BOXES}', the place of each token on the page, and the rows lack it; give rows that the "
            f"model's own processor encoded, with 'input_ids' and '{BOXES}'"
        )
    lost = sorted(key for key in given if key in reads and key not in _PASSED_ON | _WITHOUT_EFFECT)
    if are_encoded and "position_ids" in lost:
        start = _first_position(model)
        if all(_count_from(start, row.get("position_ids"), row.get("attention_mask")) for row in rows):
            lost.remove("position_ids")
    if lost:
        source = "The rows hold" if are_encoded else "Its tokenizer gives"
        raise TrimformerError(
            f"{name} reads {listed(lost)}. {source} it, but trimformer does not pass it on, and without it the model "
            "computes something else, so it cannot be pruned on these rows"
        )
    if tokenizer is not None and find_problem(model) in ("tokens", "span"):
        check_padding_side(tokenizer)


def _first_position(model: PreTrainedModel) -> int:
    """Returns the position that a model gives the first token: 0, or 1 after the padding token's id (RoBERTa)."""
    tables = [m for n, m in model.named_modules() if n.endswith("position_embeddings") and isinstance(m, nn.Embedding)]
    return max((1 + table.padding_idx for table in tables if table.padding_idx is not None), default=0)


def _count_from(start: int, positions: Any, mask: Any) -> bool:
    """Whether positions that the mask does not hide count up from `start`; nested ones, of choices, each by itself."""
    if positions is None:
        return True
    items, shown = (value.tolist() if hasattr(value, "tolist") else value for value in (positions, mask))
    if items and isinstance(items[0], list):
        masks = [None] * len(items) if shown is None else shown
        return all(_count_from(start, *pair) for pair in zip(items, masks, strict=False))
    kept = items if shown is None else [item for item, flag in zip(items, shown, strict=False) if flag]
    return kept == list(range(start, start + len(kept)))
