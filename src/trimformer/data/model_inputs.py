"""Checks that a model gets every input that it reads."""

import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from trimformer.data.batches import AUDIO_KEYS, BOXES, IMAGE_KEYS, INPUT_KEYS
from trimformer.data.outputs import find_problem
from trimformer.data.processor import check_padding_side, find_tokenizer, tokenize
from trimformer.data.rows import Rows
from trimformer.errors import TrimformerError, listed
from trimformer.models.layer_calls import LABEL_KEYS

_PASSED_ON = {*INPUT_KEYS, BOXES, *IMAGE_KEYS, *AUDIO_KEYS, *LABEL_KEYS}
# Read for a loss only, or not for the outputs.
_WITHOUT_EFFECT = {"return_loss", "num_items_in_batch", "next_sentence_label", "sentence_order_label",
                   "bbox_first_token_mask", "noise"}  # fmt: skip
_LOOKED_AT = 1000  # rows whose positions are compared with the usual ones


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
    reads = inspect.signature(type(model).forward).parameters
    name = type(model).__name__
    given: Iterable[str] = ()
    if are_encoded:
        given = rows[0].keys()
    elif tokenizer is not None:
        with suppress(TrimformerError):  # a tokenizer that takes no bare text; the task's own call of it says why
            given = tokenize(tokenizer, "a").keys()
        if BOXES in reads:
            raise TrimformerError(
                f"{name} reads '{BOXES}', the place of each token on the page, and these rows hold text only; give "
                "rows that the model's own processor encoded, with 'input_ids' and 'bbox'"
            )
    lost = [key for key in given if key in reads and key not in _PASSED_ON | _WITHOUT_EFFECT]
    if "position_ids" in lost and _are_usual_positions(rows):
        lost.remove("position_ids")
    if lost:
        raise TrimformerError(
            f"{name} reads {listed(lost)}, which {'the rows hold' if are_encoded else 'its tokenizer gives'}, but "
            "trimformer does not pass on, so the model would compute something else; it cannot be pruned on them"
        )
    if tokenizer is not None and find_problem(model) in ("tokens", "span"):
        check_padding_side(tokenizer)


def _are_usual_positions(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all rows count their positions from 0, as the model does by itself."""
    positions = (np.asarray(row["position_ids"]) for row in islice(rows, _LOOKED_AT) if "position_ids" in row)
    return all(np.array_equal(each, np.arange(len(each))) for each in positions)
