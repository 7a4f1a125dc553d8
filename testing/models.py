"""Changes to tiny random models that tests and benchmarks need."""

import copy
from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from trimformer.checkpoints.shrink import shrink
from trimformer.models import Sublayer


def enlarged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with larger weights: its default ones are so small that every unit would be negligible."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
            elif parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
    return model


def pruned(model: PreTrainedModel, masks: Sequence[torch.Tensor]) -> PreTrainedModel:
    """A copy of the model that is shrunk to the masks."""
    student = copy.deepcopy(model)
    shrink(student, masks)
    return student


def dense_masks(sublayers: Iterable[Sublayer]) -> list[torch.Tensor]:
    """Returns a mask of ones [units] for each sublayer, on the sublayer's device."""
    return [torch.ones(s.num_units, device=s.device) for s in sublayers]
