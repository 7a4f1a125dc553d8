"""Checks that a batch can fit into memory, before anything is measured."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.utils.memory import free_memory


def check_memory(model: PreTrainedModel, one: Mapping[str, Tensor], batch_size: int) -> None:
    """Checks that the inputs, and the residual stream and widest channels of one layer, fit into memory.

    This is a lower bound: a batch that passes may still be too large.

    Args:
        model: on its device.
        one: the inputs of a single sample.
        batch_size: samples.

    Raises:
        TrimformerError: the batch needs more memory than is free.
    """
    width = max((s.hidden_size + s.channels for s in find_sublayers(model)), default=0)
    inputs = sum(value.numel() * value.element_size() for value in one.values())
    needed = batch_size * (inputs + _positions(model, one) * width * model.dtype.itemsize)
    free = free_memory(model.device)
    if needed > free:
        raise TrimformerError(
            f"a batch of {batch_size} takes {needed / 1e9:,.1f} GB at the least, and {free / 1e9:,.1f} GB are free on "
            f"'{model.device}'; lower the batch size (--bs) or the length (--seq-len)"
        )


def _positions(model: PreTrainedModel, one: Mapping[str, Tensor]) -> int:
    """Positions per sample, or 0 if they are only known by running the model."""
    if "input_ids" in one:
        return one["input_ids"].numel()
    config = model.config
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    if "spatial_shapes" in one:  # SigLIP 2: patches
        return one["pixel_values"].shape[1]
    if "pixel_values" in one and isinstance(patch, int):
        height, width = one["pixel_values"].shape[-2:]
        return (height // patch) * (width // patch)
    return config.max_source_positions if "input_features" in one else 0
