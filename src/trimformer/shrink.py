"""Physical removal of units: a model with smaller linear layers, and what its config says of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.arch import Sublayer, find_sublayers
from trimformer.errors import TrimformerError

QUANT_METHOD = "trimformer"


def _replace(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight.contiguous(), requires_grad=linear.weight.requires_grad)
    if linear.bias is not None and bias is not None:
        linear.bias = nn.Parameter(bias.contiguous(), requires_grad=linear.bias.requires_grad)


@torch.no_grad()
def keep_units(sublayer: Sublayer, units: Tensor) -> None:
    """Keeps only these units of the sublayer, in place: rows of its producers, columns of its projection.

    Args:
        sublayer: changed in place.
        units: indices of the units to keep, in order, [kept]. It may be empty.
    """
    size = sublayer.unit_size
    channels = (units.unsqueeze(1) * size + torch.arange(size, device=units.device)).flatten()
    for linear in sublayer.producers:
        _replace(linear, linear.weight[channels], None if linear.bias is None else linear.bias[channels])
    _replace(sublayer.projection, sublayer.projection.weight[:, channels], sublayer.projection.bias)
    if not len(units):
        sublayer.empty()


@torch.no_grad()
def shrink(model: PreTrainedModel, masks: Sequence[Tensor]) -> None:
    """Removes, in place, the units whose mask is 0; other factors are folded into the output projection.

    The model computes what it did under the masks. Its config records the widths, so that
    `save_pretrained` writes a directory that loads again.

    Args:
        model: a supported model.
        masks: one per sublayer, [units].
    """
    sublayers = find_sublayers(model)
    for sublayer, mask in zip(sublayers, masks, strict=True):
        if len(mask) != sublayer.num_units:
            raise TrimformerError(f"the mask of {sublayer.name} has {len(mask)} entries for {sublayer.num_units} units")
    for sublayer, mask in zip(sublayers, masks, strict=True):
        weight = sublayer.projection.weight
        if not ((mask == 0) | (mask == 1)).all():
            weight.mul_(mask.to(weight).repeat_interleave(sublayer.unit_size))
        keep_units(sublayer, mask.nonzero().flatten().to(weight.device))
    record_widths(model)


def record_widths(model: PreTrainedModel) -> None:
    """Writes the number of heads and neurons of each layer into the model's config."""
    sublayers = find_sublayers(model)
    model.config.quantization_config = {
        "quant_method": QUANT_METHOD,
        "heads": [s.num_units for s in sublayers if s.kind == "attention"],
        "neurons": [s.num_units for s in sublayers if s.kind == "ffn"],
    }


def resize(model: PreTrainedModel, heads: Sequence[int], neurons: Sequence[int]) -> None:
    """Gives a model, its weights not loaded yet, the widths of a shrunk checkpoint."""
    widths = {"attention": iter(heads), "ffn": iter(neurons)}
    for sublayer in find_sublayers(model):
        keep_units(sublayer, torch.arange(next(widths[sublayer.kind]), device=sublayer.projection.weight.device))
