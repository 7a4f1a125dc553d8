"""Builds model inputs for timing and for shape checks: random ones, or in the shapes of a real sample."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.memory_check import check_memory
from trimformer.data.batches import AUDIO_KEYS, BOXES, IMAGE_KEYS, Features
from trimformer.errors import TrimformerError
from trimformer.models import max_positions

AUDIO_SAMPLES = 16_000  # one second of sound
NUM_CHOICES = 2  # answers to a multiple-choice question


def typical_sample(features: Sequence[Features]) -> Features:
    """Returns the sample whose shape the timed inputs take: a sound of median length; other samples are of one size."""
    by_length = sorted(features, key=lambda sample: np.shape(sample.get("input_values", 0)))
    return by_length[len(by_length) // 2]


def random_inputs(
    model: PreTrainedModel, batch_size: int, seq_len: int, example: Features | None = None
) -> dict[str, Tensor]:
    """Makes tokens, pixels or audio that a model's forward accepts, without padding.

    Tokens are random; each text ends in the end token, which some heads need exactly once. Images and sounds are random
    in the sizes of the config, or copies of the example.

    Args:
        model: decides which inputs are made, and on which device.
        batch_size: number of samples.
        seq_len: tokens per sample; used for text inputs only.
        example: an encoded sample: its first and last tokens, its number of choices, its boxes, images and sounds are
            used.

    Returns:
        Keyword arguments of `model.forward`, each [batch_size, ...].

    Raises:
        TrimformerError: the batch is empty or does not fit into memory, the sequence is empty or longer than the model
            accepts, or the model takes an unknown kind of input.
    """
    config: Any = model.config
    longest = max_positions(config, seq_len)
    if batch_size < 1 or not 1 <= seq_len <= longest:
        raise TrimformerError(
            f"batch size {batch_size} and length {seq_len} cannot be timed; both must be positive, and this model "
            f"takes up to {longest} tokens"
        )
    if batch_size > 1:
        check_memory(model, random_inputs(model, 1, seq_len, example), batch_size)
    generator = torch.Generator().manual_seed(0)
    parameters = inspect.signature(model.forward).parameters
    inputs: dict[str, Tensor] = {}
    if "input_ids" in parameters:
        inputs |= _texts(model, batch_size, seq_len, example, generator)
    media = _copies(example or {}, batch_size)
    if media:
        inputs |= media
    elif "pixel_values" in parameters:
        inputs |= _images(config, batch_size, generator)
    elif model.main_input_name in AUDIO_KEYS:
        inputs = _sounds(model, batch_size, generator)
    if model.main_input_name not in inputs:
        raise TrimformerError(
            f"{type(model).__name__} takes '{model.main_input_name}', and no random values can be made for it; "
            "timing supports tokens, pixels and audio"
        )
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


class Prompt:
    """A prompt of random tokens that several models are timed on, all of which have its tokens.

    Args:
        tokens: number of tokens.

    Attributes:
        ids: the tokens; empty before the first model.
    """

    def __init__(self, tokens: int) -> None:
        self.ids: list[int] = []
        self._tokens, self._rows = tokens, 0

    def fit(self, model: PreTrainedModel) -> None:
        """Draws the prompt again if the model has fewer tokens than those before."""
        rows = int(model.config.vocab_size)
        if not self.ids or rows < self._rows:
            self.ids, self._rows = random_inputs(model, 1, self._tokens)["input_ids"][0].tolist(), rows


def _texts(
    model: PreTrainedModel, batch_size: int, seq_len: int, example: Features | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """Makes random tokens [batch_size, seq_len], or [batch_size, choices, seq_len] for multiple choice."""
    config: Any = getattr(model.config, "text_config", model.config)
    of_example = np.asarray([], dtype=int)
    choices: tuple[int, ...] = (NUM_CHOICES,) if type(model).__name__.endswith("ForMultipleChoice") else ()
    if example is not None and "input_ids" in example and len(example["input_ids"]):
        ids_or_choices = example["input_ids"]
        choices = (len(ids_or_choices),) if choices else ()
        of_example = np.asarray(ids_or_choices[0] if choices else ids_or_choices)
    ids = torch.randint(config.vocab_size, (batch_size, *choices, seq_len), generator=generator)
    ends, special = _token_ids(config, "eos_token_id"), torch.tensor(special_tokens(config), dtype=torch.long)
    ordinary = torch.arange(config.vocab_size)
    ordinary = ordinary[~torch.isin(ordinary, special)]
    if len(ordinary):
        ids = torch.where(torch.isin(ids, special), ordinary[ids % len(ordinary)], ids)
    if len(of_example):
        ids[..., 0], ids[..., -1] = int(of_example[0]), int(of_example[-1])
    elif ends:
        ids[..., -1] = ends[0]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if BOXES in inspect.signature(model.forward).parameters:
        corners = torch.rand(*ids.shape, 2, 2, generator=generator).sort(-2).values.flatten(-2)
        places = getattr(config, "max_2d_position_embeddings", 0)  # 0: boxes are fractions of the page
        # [batch, length, 4]: left, top, right, bottom
        inputs[BOXES] = (corners * (places - 1)).long() if places else corners
    if example is not None and BOXES in example:
        boxes = torch.as_tensor(np.asarray(example[BOXES]))
        inputs[BOXES] = boxes[torch.arange(seq_len) % len(boxes)].expand(batch_size, seq_len, -1).contiguous()
    return inputs


def special_tokens(config: Any) -> list[int]:
    """Returns the ids of the end and padding tokens, which some heads look for in every text."""
    return [*_token_ids(config, "eos_token_id"), *_token_ids(config, "pad_token_id")]


def _token_ids(config: Any, name: str) -> list[int]:
    """Returns the ids of an entry of the config that names one token, several or none."""
    value = getattr(config, name, None)
    tokens = value if isinstance(value, list | tuple) else [value]
    return [token for token in tokens if isinstance(token, int) and 0 <= token < config.vocab_size]


def _copies(example: Features, batch_size: int) -> dict[str, Tensor]:
    """Repeats an example's images and sounds; integers are of 64 bits, as in the batches of the data."""
    keys = [key for key in (*IMAGE_KEYS, *AUDIO_KEYS) if key in example]
    if "attention_mask" in example and "input_ids" not in example:
        keys.append("attention_mask")
    values = {key: torch.as_tensor(np.asarray(example[key])) for key in keys}
    values = {key: value if value.is_floating_point() else value.long() for key, value in values.items()}
    return {key: value.expand(batch_size, *value.shape).contiguous() for key, value in values.items()}


def _images(config: Any, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Makes random images [batch, channels, height, width], videos with a dimension of frames, or patches."""
    vision = getattr(config, "vision_config", config)
    if not hasattr(vision, "image_size") and hasattr(vision, "num_patches"):  # SigLIP 2 takes patches
        shape = (batch_size, vision.num_patches, vision.num_channels * vision.patch_size**2)
        side = int(vision.num_patches**0.5)
        return {
            "pixel_values": torch.randn(shape, generator=generator),
            "pixel_attention_mask": torch.ones(shape[:2], dtype=torch.long),
            "spatial_shapes": torch.tensor([side, vision.num_patches // side]).repeat(batch_size, 1),
        }
    size = vision.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    frames = (vision.num_frames,) if hasattr(vision, "num_frames") else ()
    shape = (batch_size, *frames, vision.num_channels, height, width)
    return {"pixel_values": torch.randn(shape, generator=generator)}


def _sounds(model: PreTrainedModel, batch_size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Makes random spectrograms of the length that the model needs, or waveforms of one second."""
    config: Any = model.config
    if model.main_input_name == "input_features":
        strides = model.get_encoder().conv1.stride[0] * model.get_encoder().conv2.stride[0]
        shape: tuple[int, ...] = (config.num_mel_bins, config.max_source_positions * strides)
    else:
        is_spectrogram = hasattr(config, "num_mel_bins")
        shape = (config.max_length, config.num_mel_bins) if is_spectrogram else (AUDIO_SAMPLES,)
    return {model.main_input_name: torch.randn(batch_size, *shape, generator=generator)}
