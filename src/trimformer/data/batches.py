"""Encoded samples -> padded batches of similar length."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trimformer.data.processor import feature_extractor_of, tokenizer_of
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models.layer_calls import LABEL_KEYS, Batch

INPUT_KEYS = ("input_ids", "attention_mask", "token_type_ids")
IMAGE_KEYS = ("pixel_values", "pixel_mask", "pixel_attention_mask", "spatial_shapes")
AUDIO_KEYS = ("input_values", "input_features")

# What a backward pass keeps grows with the tokens of a batch: some 2.5 GB for these on BERT-base.
MAX_TOKENS = 4096

# Tokens that images and sounds become are the model's matter; these bound a batch's memory well enough.
_PIXELS_A_TOKEN = 16 * 16  # ViT
_SAMPLES_A_TOKEN = 320  # wav2vec2, HuBERT, WavLM
_FRAMES_A_TOKEN = 2  # Whisper
_BINS_A_TOKEN = 100  # AST's patches of a spectrogram, which overlap

Features = Mapping[str, Any]


def sample_indices(num_rows: int, num_samples: int, seed: int) -> list[int]:
    """Draws `min(num_samples, num_rows)` different rows; the same seed gives the same rows."""
    return np.random.default_rng(seed).permutation(num_rows)[:num_samples].tolist()


def make_batches(
    features: Sequence[Features],
    processor: Any,
    batch_size: int,
    device: str | torch.device = "cpu",
    max_tokens: int = MAX_TOKENS,
) -> list[Batch]:
    """Pads encoded samples into batches, samples of similar length together so that little is padding.

    Args:
        features: one mapping per sample: what `Task.encode` gives, labels among it: `labels` or, for spans,
            `start_positions` and `end_positions`. Token labels are padded with -100.
        processor: the tokenizer, which knows the padding token and side, or the feature extractor that pads sounds,
            or what holds them.
        batch_size: samples in a batch, at most.
        device: where the tensors are put.
        max_tokens: tokens in a batch, padding included, at most; a batch has one sample at least. Those of images and
            sounds are estimated.

    Returns:
        Batches of model inputs [batch, ...], of texts [batch, length], of choices [batch, choices, length]; labels; and
        `index` [batch], the samples' positions in `features`.

    Raises:
        TrimformerError: images differ in size, or the processor cannot pad these samples.
    """
    sizes = [(_choices(sample), _tokens(sample)) for sample in features]
    order = sorted(range(len(features)), key=lambda i: sizes[i], reverse=True)
    batches, start = [], 0
    while start < len(order):
        choices, longest = sizes[order[start]]
        stop = start + min(batch_size, max(1, int(max_tokens // max(longest, 1))))
        index = [i for i in order[start:stop] if sizes[i][0] == choices]
        batches.append(_batch(features, index, processor, device))
        start += len(index)
    return batches


def _choices(sample: Features) -> int:
    """How many texts a sample of multiple choice has; 0 of all others."""
    ids = sample.get("input_ids")
    return len(ids) if ids is not None and len(ids) and isinstance(ids[0], Sequence) else 0


def _length(sample: Features) -> int:
    """Tokens of a text, or of the longest of a sample's texts."""
    ids = sample["input_ids"]
    return max(map(len, ids)) if _choices(sample) else len(ids)


def _tokens(sample: Features) -> float:
    """Tokens that a sample becomes, images and sounds by a rough estimate."""
    total = float(_length(sample) * max(_choices(sample), 1)) if "input_ids" in sample else 0.0
    if "pixel_values" in sample:
        shape = np.shape(sample["pixel_values"])  # [channels, height, width], or of patches [number, values]
        total += shape[0] if len(shape) == 2 else shape[-2] * shape[-1] / _PIXELS_A_TOKEN + 1
    if "input_values" in sample:
        shape = np.shape(sample["input_values"])
        total += shape[0] / _SAMPLES_A_TOKEN if len(shape) == 1 else shape[0] * shape[1] / _BINS_A_TOKEN
    if "input_features" in sample:
        total += max(np.shape(sample["input_features"])) / _FRAMES_A_TOKEN
    return total


def _batch(features: Sequence[Features], index: list[int], processor: Any, device: str | torch.device) -> Batch:
    batch = {**collate([features[i] for i in index], processor), "index": torch.tensor(index)}
    return {key: value.to(device) for key, value in batch.items()}


def collate(samples: Sequence[Features], processor: Any) -> dict[str, Tensor]:
    """Pads encoded samples to the longest of them, and stacks what has no length.

    Raises:
        TrimformerError: images differ in size, or the processor cannot pad these samples.
    """
    batch: dict[str, Tensor] = {}
    if "input_ids" in samples[0]:
        batch |= _pad_texts(samples, processor)
    for key in IMAGE_KEYS:
        if key in samples[0]:
            batch[key] = _stack(samples, key)
    for key in AUDIO_KEYS:
        if key in samples[0]:
            batch |= _pad_sounds(samples, key, processor)
    for key in LABEL_KEYS:
        if key in samples[0]:
            values = [torch.as_tensor(sample[key]) for sample in samples]
            per_token = bool(values[0].dim())
            batch[key] = (
                pad_sequence(values, batch_first=True, padding_value=-100) if per_token else torch.stack(values)
            )
    return batch


def _pad_texts(samples: Sequence[Features], processor: Any) -> dict[str, Tensor]:
    """[batch, length]; of choices [batch, choices, length]."""
    inputs = [{key: sample[key] for key in INPUT_KEYS if key in sample} for sample in samples]
    choices = _choices(samples[0])
    if choices:
        inputs = [{key: sample[key][i] for key in sample} for sample in inputs for i in range(choices)]
    tokenizer = tokenizer_of(processor)
    if tokenizer.pad_token is None and len({len(sample["input_ids"]) for sample in inputs}) > 1:
        raise TrimformerError("the tokenizer has no padding token; name one in its tokenizer_config.json (pad_token)")
    with one_sentence("the tokenizer cannot pad these texts"):
        padded = dict(tokenizer.pad(inputs, return_tensors="pt"))
    return {key: value.view(len(samples), choices, -1) for key, value in padded.items()} if choices else padded


def _stack(samples: Sequence[Features], key: str) -> Tensor:
    values = [torch.as_tensor(np.asarray(sample[key])) for sample in samples]
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise TrimformerError(
            f"'{key}' of the samples differ in size ({', '.join(map(str, sorted(shapes)[:3]))}); let the image "
            "processor resize or crop to one size"
        )
    return torch.stack(values)


def _pad_sounds(samples: Sequence[Features], key: str, processor: Any) -> dict[str, Tensor]:
    """[batch, samples], or of spectrograms [batch, frames, bins], padded as the feature extractor does it."""
    keys = (key, "attention_mask") if "attention_mask" in samples[0] else (key,)
    if len({np.shape(sample[key]) for sample in samples}) == 1:
        batch = {name: torch.as_tensor(np.stack([np.asarray(sample[name]) for sample in samples])) for name in keys}
    else:
        inputs = [{name: np.asarray(sample[name]) for name in keys} for sample in samples]
        with one_sentence(f"'{key}' of different lengths cannot be padded"):
            batch = dict(feature_extractor_of(processor).pad(inputs, padding=True, return_tensors="pt"))
    return {name: value.long() if name == "attention_mask" else value for name, value in batch.items()}


def token_mask(batch: Batch) -> Tensor:
    """[batch, length], true at tokens that are not padding; [batch, 1] where the samples are no tokens."""
    if "attention_mask" not in batch:
        return torch.ones(len(batch["index"]), 1, dtype=torch.bool, device=batch["index"].device)
    return batch["attention_mask"].bool()


def count_samples(batches: Iterable[Batch]) -> int:
    return sum(len(batch["index"]) for batch in batches)


def mean_length(features: Sequence[Features]) -> float:
    """Average tokens per text, of choices those of the longest: the sequence length that MACs are counted for.

    A sample without a text counts as 1.
    """
    return float(np.mean([_length(sample) if "input_ids" in sample else 1 for sample in features]))
