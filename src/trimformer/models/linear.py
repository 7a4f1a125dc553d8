"""One view of the two kinds of linear layer in Transformers: `nn.Linear`, and GPT-2's `Conv1D`, which is transposed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Linear = nn.Linear | Conv1D


class NarrowConv1D(Conv1D):  # type: ignore[misc]
    """A `Conv1D` that also runs on no input channels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


def matrix(linear: Linear) -> Tensor:
    """The weight as [outputs, inputs]: a view, which may be written to."""
    weight: Tensor = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def replace_weights(linear: Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Gives a layer a weight [outputs, inputs] and a bias [outputs] of another size, in place."""
    transposed = isinstance(linear, Conv1D)
    given = weight.T if transposed else weight
    linear.weight = nn.Parameter(given.contiguous(), requires_grad=linear.weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.contiguous(), requires_grad=linear.bias.requires_grad)
    if transposed:
        linear.nf, linear.nx = weight.shape
        linear.__class__ = NarrowConv1D
    else:
        linear.out_features, linear.in_features = weight.shape


@torch.no_grad()
def write_weights(linear: Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Writes a weight [outputs, inputs] and a bias into a layer, in its own dtype; one without a bias gets none."""
    matrix(linear).copy_(weight)
    if linear.bias is not None and bias is not None:
        linear.bias.copy_(bias)
