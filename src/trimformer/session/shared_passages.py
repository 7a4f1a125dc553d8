"""Finds blocks of tokens that hold passages of other blocks, wherever the text was cut."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimformer.data.rows import Rows
from trimformer.models.layer_calls import NEXT_TOKENS

PASSAGE = 32  # tokens
_STRIDE = 8  # a passage of this many more is always found

Hashes = NDArray[np.int64]


def hold_passages(blocks: Rows, others: Rows) -> list[bool]:
    """Returns for each block whether it holds a passage of other blocks, among the tokens that count.

    Prompts do not count: many conversations begin alike.
    """
    known = [_hashes(block) for block in others]
    passages = np.unique(np.concatenate(known)) if known else np.zeros(0, dtype=np.int64)
    return [bool(np.isin(_hashes(block, every=_STRIDE), passages).any()) for block in blocks]


def _hashes(block: Any, every: int = 1) -> Hashes:
    """Hashes every `every`-th passage of a block's counted tokens."""
    tokens = np.asarray(block[NEXT_TOKENS], dtype=np.int64)
    if len(tokens) < PASSAGE:
        return np.zeros(0, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, PASSAGE)[::every]  # [passages, PASSAGE]
    factors = np.random.default_rng(0).integers(-(2**62), 2**62, PASSAGE) * 2 + 1
    hashed: Hashes = (windows * factors).sum(1)[(windows >= 0).all(1)]  # wraps around
    return hashed
