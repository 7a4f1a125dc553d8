"""Builds random model inputs for timing and for shape checks."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.memory_check import check_memory
from trimformer.errors import TrimformerError
from trimformer.models import max_positions

AUDIO_SAMPLES = 16_000  # one second of sound
NUM_CHOICES = 2  # answers to a multiple-choice question


def random_inputs(model: PreTrainedModel, batch_size: int, seq_len: int) -> dict[str, Tensor]:
    """Makes random tokens, pixels or audio in the shapes that a model's forward takes, without padding.

    Args:
        model: decides which inputs are made, and on which device.
        batch_size: number of samples.
        seq_len: tokens per sample; used for text inputs only.

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
        check_memory(model, random_inputs(model, 1, seq_len), batch_size)
    generator = torch.Generator().manual_seed(0)
    parameters = inspect.signature(model.forward).parameters
    inputs: dict[str, Tensor] = {}
    if "input_ids" in parameters:
        vocabulary = getattr(config, "text_config", config).vocab_size
        choices = (NUM_CHOICES,) if type(model).__name__.endswith("ForMultipleChoice") else ()
        ids = torch.randint(vocabulary, (batch_size, *choices, seq_len), generator=generator)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "pixel_values" in parameters:
        vision = getattr(config, "vision_config", config)
        size = vision.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        inputs["pixel_values"] = torch.randn(batch_size, vision.num_channels, height, width, generator=generator)
    if model.main_input_name == "input_features":
        strides = model.get_encoder().conv1.stride[0] * model.get_encoder().conv2.stride[0]
        shape = (batch_size, config.num_mel_bins, config.max_source_positions * strides)
        inputs = {"input_features": torch.randn(shape, generator=generator)}
    if model.main_input_name == "input_values" and not inputs:
        is_spectrogram = hasattr(config, "num_mel_bins")
        features = (config.max_length, config.num_mel_bins) if is_spectrogram else (AUDIO_SAMPLES,)
        inputs = {"input_values": torch.randn(batch_size, *features, generator=generator)}
    if model.main_input_name not in inputs:
        raise TrimformerError(
            f"{type(model).__name__} takes '{model.main_input_name}', and no random values can be made for it; "
            "timing supports tokens, pixels and audio"
        )
    return {name: value.to(model.device) for name, value in inputs.items()}
