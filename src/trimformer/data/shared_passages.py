"""Finds blocks of tokens that hold passages of other blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimformer.models.layer_calls import NEXT_TOKENS

PASSAGE = 32  # tokens
_STRIDE = 8  # a passage of this many more is always found
_COMMON = 0.01  # share of the blocks in which a passage is no copy but a form, such as a licence at the head of files

_FACTORS = np.random.default_rng(0).integers(-(2**62), 2**62, PASSAGE) * 2 + 1  # of a passage's tokens in its hash

Hashes = NDArray[np.int64]


def hold_passages(blocks: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Returns for each block whether it holds a passage of other blocks, wherever they are cut, in tokens that count.

    Prompts do not count, as many conversations begin alike, nor do passages that more than three of the other blocks,
    and more than a hundredth of them, have in common.
    """
    known = [np.unique(_hashes(block)) for block in others]
    every = np.concatenate(known) if known else np.zeros(0, dtype=np.int64)
    passages, counts = np.unique(every, return_counts=True)
    passages = passages[counts <= max(3, _COMMON * len(known))]
    if not len(passages):
        return [False] * len(blocks)
    return [_holds(_hashes(block, _STRIDE), passages) for block in blocks]


def _holds(hashes: Hashes, passages: Hashes) -> bool:
    """Whether any hash is one of the sorted passages."""
    places = np.searchsorted(passages, hashes).clip(max=len(passages) - 1)
    return bool((passages[places] == hashes).any())


def _hashes(block: Mapping[str, Any], every: int = 1) -> Hashes:
    """Hashes every `every`-th passage of a block's counted tokens."""
    tokens = np.asarray(block[NEXT_TOKENS], dtype=np.int64)
    if len(tokens) < PASSAGE:
        return np.zeros(0, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, PASSAGE)[::every]  # [passages, PASSAGE]
    hashed: Hashes = (windows * _FACTORS).sum(1)[(windows >= 0).all(1)]  # wraps around
    return hashed
