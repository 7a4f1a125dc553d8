"""Encoded samples -> padded batches of similar length."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from trimformer.arch.calls import LABEL_KEYS, Batch

INPUT_KEYS = ("input_ids", "attention_mask", "token_type_ids")

# What a backward pass keeps grows with the tokens of a batch: some 2.5 GB for these on BERT-base.
MAX_TOKENS = 4096

Features = Mapping[str, Any]


def sample_indices(num_rows: int, num_samples: int, seed: int) -> list[int]:
    """Draws `min(num_samples, num_rows)` different rows; the same seed gives the same rows."""
    return np.random.default_rng(seed).permutation(num_rows)[:num_samples].tolist()


def make_batches(
    features: Sequence[Features],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    device: str | torch.device = "cpu",
    max_tokens: int = MAX_TOKENS,
) -> list[Batch]:
    """Pads encoded samples into batches, samples of similar length together so that little is padding.

    Args:
        features: one mapping per sample: the tokenizer's output, and `labels` or, for spans,
            `start_positions` and `end_positions`. Token labels are padded with -100.
        tokenizer: knows the padding token and side.
        batch_size: samples in a batch, at most.
        device: where the tensors are put.
        max_tokens: tokens in a batch, padding included, at most; a batch has one sample at least.

    Returns:
        Batches of model inputs [batch, length], labels, and `index` [batch], the samples' positions
        in `features`.
    """
    order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]), reverse=True)
    batches, start = [], 0
    while start < len(order):
        longest = len(features[order[start]]["input_ids"])
        stop = start + min(batch_size, max(1, max_tokens // max(longest, 1)))
        batches.append(_batch(features, order[start:stop], tokenizer, device))
        start = stop
    return batches


def _batch(
    features: Sequence[Features], index: list[int], tokenizer: PreTrainedTokenizerBase, device: str | torch.device
) -> Batch:
    batch = {**collate([features[i] for i in index], tokenizer), "index": torch.tensor(index)}
    return {key: value.to(device) for key, value in batch.items()}


def collate(samples: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Pads encoded samples to the longest of them."""
    inputs = [{key: sample[key] for key in INPUT_KEYS if key in sample} for sample in samples]
    batch = dict(tokenizer.pad(inputs, return_tensors="pt"))
    for key in LABEL_KEYS:
        if key in samples[0]:
            values = [torch.as_tensor(sample[key]) for sample in samples]
            per_token = bool(values[0].dim())
            batch[key] = (
                pad_sequence(values, batch_first=True, padding_value=-100) if per_token else torch.stack(values)
            )
    return batch


def token_mask(batch: Batch) -> Tensor:
    """[batch, length], true at tokens that are not padding; [batch, 1] where the samples are no tokens."""
    if "attention_mask" not in batch:
        return torch.ones(len(batch["index"]), 1, dtype=torch.bool, device=batch["index"].device)
    return batch["attention_mask"].bool()


def num_samples(batches: Iterable[Batch]) -> int:
    return sum(len(batch["index"]) for batch in batches)


def mean_length(features: Sequence[Features]) -> float:
    """Average tokens per sample: the sequence length that MACs are counted for."""
    return float(np.mean([len(sample["input_ids"]) for sample in features]))
