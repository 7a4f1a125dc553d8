"""Divides the samples of a polish into those to train on and those held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimformer.data.batches import AUDIO_KEYS, BOXES, IMAGE_KEYS, INPUT_KEYS, Features
from trimformer.data.rows import DOCUMENT, shuffled_rows
from trimformer.data.shared_passages import hold_passages
from trimformer.data.splits import divide, separate_documents
from trimformer.models.layer_calls import NEXT_TOKENS
from trimformer.refit.regression_moments import HELD_OUT_EVERY


@dataclass(frozen=True)
class DividedSamples:
    """Distinct samples of a polish.

    Attributes:
        train: samples to train on.
        held_out: held-out samples.
        holds_out_calibration: calibration samples are among the held-out ones, so the refit must not use these.
    """

    train: list[Features]
    held_out: list[Features]
    holds_out_calibration: bool


def divide_samples(calibrated: Sequence[Features], more: Sequence[Features]) -> DividedSamples:
    """Drops duplicates and holds out an eighth of the samples, or of the new ones where they are at least half.

    New ones are preferred, as the refit has used the calibration samples. New blocks of tokens are held out by
    document, where there are `HELD_OUT_EVERY` documents or more. Of the calibration samples, those are held out that
    the refit holds out.

    Args:
        calibrated: the calibration samples.
        more: further samples; those that equal a calibration sample count as that one.
    """
    pool, n = [*calibrated, *more], len(calibrated)
    places: dict[bytes, list[int]] = {}  # every position in the pool at which a sample occurs
    for i, sample in enumerate(pool):
        places.setdefault(_digest(sample), []).append(i)
    first = {positions[0]: positions for positions in places.values()}
    new, known = {i for i in first if i >= n}, {i for i in first if i < n}
    only_new = 2 * len(new) >= len(first)
    documents = _divide_documents(more, calibrated)
    if documents is None:
        held_out = {i for i in new if i % HELD_OUT_EVERY == 0}
        train = new - held_out
    else:
        held_out, train = ({i for i in new if i - n in part} for part in documents)
    if not only_new:
        # The refit holds out positions: a repeated sample is held out only if all its positions are.
        held_out |= {i for i in known if all(k % HELD_OUT_EVERY == 0 for k in first[i] if k < n)}
    train |= known - held_out
    return DividedSamples([pool[i] for i in sorted(train)], [pool[i] for i in sorted(held_out)], not only_new)


def without_left_out(samples: Sequence[Features], left_out: Sequence[Features]) -> list[Features]:
    """Returns the samples that do not equal one that is left out, and hold no passage of its tokens."""
    excluded = set(map(_digest, left_out))
    more = [sample for sample in samples if _digest(sample) not in excluded]
    if not left_out or NEXT_TOKENS not in left_out[0]:
        return more
    return [sample for sample, is_excluded in zip(more, hold_passages(more, left_out), strict=True) if not is_excluded]


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


def _digest(sample: Features) -> bytes:
    """Hashes a sample's inputs, so that no input is both trained on and held out."""
    digest = hashlib.sha256()
    for key, value in sample.items():
        if key in (*INPUT_KEYS, BOXES):  # a list of lists of different lengths for multiple choice
            digest.update(str(value.tolist() if hasattr(value, "tolist") else value).encode())
        elif key in (*IMAGE_KEYS, *AUDIO_KEYS):
            digest.update(np.asarray(value).tobytes())
    return digest.digest()
