"""Pads encoded samples into batches of similar length."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trimformer.data.processor import feature_extractor_of, tokenizer_of
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models.layer_calls import LABEL_KEYS, NEXT_TOKENS, Batch

INPUT_KEYS = ("input_ids", "attention_mask", "token_type_ids")
BOXES = "bbox"  # one per token, of models for documents
IMAGE_KEYS = ("pixel_values", "pixel_mask", "pixel_attention_mask", "spatial_shapes")
AUDIO_KEYS = ("input_values", "input_features")
IGNORED = -100  # as a label: the position does not count

# Activation memory of a backward pass grows with the tokens of a batch: about 2.5 GB for 4096 on BERT-base.
MAX_TOKENS = 4096

# Rough estimates of how many tokens images and sounds become: enough to bound the memory of a batch.
_PIXELS_PER_TOKEN = 16 * 16  # ViT
_SAMPLES_PER_TOKEN = 320  # wav2vec2, HuBERT, WavLM
_FRAMES_PER_TOKEN = 2  # Whisper
_BINS_PER_TOKEN = 100  # AST: overlapping patches of a spectrogram

Features = Mapping[str, Any]


def sample_indices(num_rows: int, num_samples: int, seed: int) -> list[int]:
    """Draws `min(num_samples, num_rows)` row indices without replacement; the same seed gives the same indices."""
    return np.random.default_rng(seed).permutation(num_rows)[:num_samples].tolist()


def sample_generators(index: Tensor, seed: int) -> list[torch.Generator]:
    """Returns a generator of random numbers on the CPU for each sample [batch]: by the seed and the sample's index."""
    # A generator uses only the low 32 bits of its seed.
    return [torch.Generator().manual_seed((seed * 0x9E3779B1 + i) % 2**32) for i in index.tolist()]


def make_batches(
    features: Sequence[Features],
    processor: Any,
    batch_size: int,
    device: str | torch.device = "cpu",
    max_tokens: int = MAX_TOKENS,
) -> list[Batch]:
    """Pads encoded samples into batches, grouping samples of similar length to keep padding low.

    Args:
        features: one mapping per sample, as returned by `Task.encode`. It may hold labels: `labels` or, for question
            answering, `start_positions` and `end_positions`. Token labels are padded with -100.
        processor: the tokenizer (padding token and side), the feature extractor (padding of sounds), or a processor
            with both.
        batch_size: maximum number of samples in a batch.
        device: device of the returned tensors.
        max_tokens: maximum number of tokens in a batch, padding included; a single longer sample is a batch of its
            own. The tokens of images and sounds are estimated.

    Returns:
        Batches of model inputs and labels. `input_ids` is [batch, length], or [batch, choices, length] for multiple
        choice. `index` [batch] holds the positions of the samples in `features`.

    Raises:
        TrimformerError: images differ in size, or the processor cannot pad these samples.
    """
    sizes = [(*_fixed_sizes(sample), _num_tokens(sample)) for sample in features]
    order = sorted(range(len(features)), key=lambda i: sizes[i], reverse=True)
    batches, start = [], 0
    while start < len(order):
        *fixed, longest = sizes[order[start]]
        stop = start + min(batch_size, max(1, int(max_tokens // max(longest, 1))))
        index = [i for i in order[start:stop] if [*sizes[i][:-1]] == fixed]
        batches.append(_batch(features, index, processor, device))
        start += len(index)
    return batches


def _fixed_sizes(sample: Features) -> tuple[int, int]:
    """Returns what all samples of a batch share: the number of choices, and the length of a sound without a mask.

    Padding changes the outputs of a sound that has no attention mask, so such sounds are never padded.
    """
    waveform = () if "attention_mask" in sample else np.shape(sample.get("input_values", ()))
    return _num_choices(sample), waveform[0] if len(waveform) == 1 else 0


def _num_choices(sample: Features) -> int:
    """Number of texts in a multiple choice sample; 0 for any other sample."""
    ids = sample.get("input_ids")
    return len(ids) if ids is not None and len(ids) and isinstance(ids[0], Sequence) else 0


def _length(sample: Features) -> int:
    """Number of tokens in a text, or in the longest choice of a multiple choice sample."""
    ids = sample["input_ids"]
    return max(map(len, ids)) if _num_choices(sample) else len(ids)


def _num_tokens(sample: Features) -> float:
    """Number of tokens of a sample; a rough estimate for images and sounds."""
    total = float(_length(sample) * max(_num_choices(sample), 1)) if "input_ids" in sample else 0.0
    if "pixel_values" in sample:
        shape = np.shape(sample["pixel_values"])  # [channels, height, width], or [patches, values]
        total += shape[0] if len(shape) == 2 else shape[-2] * shape[-1] / _PIXELS_PER_TOKEN + 1
    if "input_values" in sample:
        shape = np.shape(sample["input_values"])
        total += shape[0] / _SAMPLES_PER_TOKEN if len(shape) == 1 else shape[0] * shape[1] / _BINS_PER_TOKEN
    if "input_features" in sample:
        total += max(np.shape(sample["input_features"])) / _FRAMES_PER_TOKEN
    return total


def _batch(features: Sequence[Features], index: list[int], processor: Any, device: str | torch.device) -> Batch:
    batch = {**collate([features[i] for i in index], processor), "index": torch.tensor(index)}
    return {key: value.to(device) for key, value in batch.items()}


def collate(samples: Sequence[Features], processor: Any) -> dict[str, Tensor]:
    """Pads encoded samples to the longest one and stacks inputs of fixed size.

    Raises:
        TrimformerError: images differ in size, or the processor cannot pad these samples.
    """
    batch: dict[str, Tensor] = {}
    if NEXT_TOKENS in samples[0]:
        return _pad_blocks(samples)
    if "input_ids" in samples[0]:
        batch |= _pad_texts(samples, processor)
        if BOXES in samples[0]:
            batch[BOXES] = _pad_boxes(samples, batch["input_ids"].shape[-1], processor)
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
                pad_sequence(values, batch_first=True, padding_value=IGNORED) if per_token else torch.stack(values)
            )
    return batch


def _pad_blocks(samples: Sequence[Features]) -> dict[str, Tensor]:
    """Pads blocks of tokens on the right; language models often have no padding token, and the mask hides it."""
    ids, targets = (
        pad_sequence([torch.as_tensor(sample[key]) for sample in samples], batch_first=True, padding_value=value)
        for key, value in (("input_ids", 0), (NEXT_TOKENS, IGNORED))
    )
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
    return {"input_ids": ids.long(), "attention_mask": mask.long(), NEXT_TOKENS: targets.long()}


def _pad_texts(samples: Sequence[Features], processor: Any) -> dict[str, Tensor]:
    """Pads texts to [batch, length], or multiple choice samples to [batch, choices, length]."""
    inputs = [{key: sample[key] for key in INPUT_KEYS if key in sample} for sample in samples]
    choices = _num_choices(samples[0])
    if choices:
        inputs = [{key: sample[key][i] for key in sample} for sample in inputs for i in range(choices)]
    tokenizer = tokenizer_of(processor)
    if tokenizer.pad_token is None and len({len(sample["input_ids"]) for sample in inputs}) > 1:
        raise TrimformerError("the tokenizer has no padding token; set pad_token in its tokenizer_config.json")
    with one_sentence("the tokenizer cannot pad these texts"):
        padded = dict(tokenizer.pad(inputs, return_tensors="pt"))
    return {key: value.view(len(samples), choices, -1) for key, value in padded.items()} if choices else padded


def _pad_boxes(samples: Sequence[Features], length: int, processor: Any) -> Tensor:
    """Pads the boxes of tokens with zeros to [batch, length, coordinates], on the side where texts are padded."""
    padded = []
    for sample in samples:
        boxes = torch.as_tensor(sample[BOXES])
        padding = boxes.new_zeros(length - len(boxes), boxes.shape[-1])
        is_left = tokenizer_of(processor).padding_side == "left"
        padded.append(torch.cat([padding, boxes] if is_left else [boxes, padding]))
    return torch.stack(padded)


def _stack(samples: Sequence[Features], key: str) -> Tensor:
    values = [torch.as_tensor(np.asarray(sample[key])) for sample in samples]
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise TrimformerError(
            f"the samples' '{key}' differ in size ({', '.join(map(str, sorted(shapes)[:3]))}); set the image processor "
            "to resize or crop to one size"
        )
    return torch.stack(values)


def _pad_sounds(samples: Sequence[Features], key: str, processor: Any) -> dict[str, Tensor]:
    """Pads sounds with the feature extractor: waveforms [batch, samples] or spectrograms [batch, frames, bins]."""
    keys = (key, "attention_mask") if "attention_mask" in samples[0] else (key,)
    if len({np.shape(sample[key]) for sample in samples}) == 1:
        batch = {name: torch.as_tensor(np.stack([np.asarray(sample[name]) for sample in samples])) for name in keys}
    else:
        inputs = [{name: np.asarray(sample[name]) for name in keys} for sample in samples]
        with one_sentence(f"'{key}' cannot be padded to one length"):
            batch = dict(feature_extractor_of(processor).pad(inputs, padding=True, return_tensors="pt"))
    return {name: value.long() if name == "attention_mask" else value for name, value in batch.items()}


def numbered_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yields the batches, with the positions of their samples as `index` where they have none."""
    start = 0
    for batch in batches:
        if "index" not in batch:
            first = next(iter(batch.values()))
            batch = {**batch, "index": torch.arange(start, start + len(first), device=first.device)}
        start += len(batch["index"])
        yield batch


def token_mask(batch: Batch) -> Tensor:
    """Boolean mask [batch, length], true at non-padding tokens; [batch, 1], all true, if there is no attention mask."""
    if "attention_mask" not in batch:
        return torch.ones(len(batch["index"]), 1, dtype=torch.bool, device=batch["index"].device)
    return batch["attention_mask"].bool()


def count_samples(batches: Iterable[Batch]) -> int:
    """Total number of samples in the batches."""
    return sum(len(batch["index"]) for batch in batches)


def mean_length(features: Sequence[Features]) -> float:
    """Mean number of tokens per sample: the sequence length that MACs are counted for.

    A multiple choice sample counts the tokens of its longest choice; a sample without a text counts 1.
    """
    return float(np.mean([_length(sample) if "input_ids" in sample else 1 for sample in features]))


def mean_choices(features: Sequence[Features]) -> float:
    """Mean number of choices of multiple choice samples."""
    return float(np.mean([_num_choices(sample) for sample in features]))
