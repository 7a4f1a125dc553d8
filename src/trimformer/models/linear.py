"""One interface to both linear layers of Transformers: `nn.Linear`, and GPT-2's `Conv1D` with a transposed weight."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Linear = nn.Linear | Conv1D


class NarrowConv1D(Conv1D):  # type: ignore[misc]
    """A `Conv1D` that also accepts zero input channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer to [..., inputs]."""
        return F.linear(x, self.weight.T, self.bias)


def matrix(linear: Linear) -> Tensor:
    """Returns the weight as a writable view [outputs, inputs]."""
    weight: Tensor = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def replace_weights(linear: Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Replaces a layer's weight [outputs, inputs] and bias [outputs] by ones of another size, in place."""
    transposed = isinstance(linear, Conv1D)
    stored = weight.T if transposed else weight
    linear.weight = nn.Parameter(stored.contiguous(), requires_grad=linear.weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.contiguous(), requires_grad=linear.bias.requires_grad)
    if transposed:
        linear.nf, linear.nx = weight.shape
        linear.__class__ = NarrowConv1D
    else:
        linear.out_features, linear.in_features = weight.shape


@torch.no_grad()
def write_weights(linear: Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Copies a weight [outputs, inputs] and a bias [outputs] into a layer; ignores the bias if the layer has none."""
    matrix(linear).copy_(weight)
    if linear.bias is not None and bias is not None:
        linear.bias.copy_(bias)
