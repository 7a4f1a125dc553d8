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
def add_to_bias(linear: Linear, shift: Tensor) -> None:
    """Adds a vector [outputs] to a layer's bias, which is created if the layer has none."""
    if linear.bias is None:
        new_bias(linear)
    linear.bias.add_(shift.to(linear.bias))


@torch.no_grad()
def new_bias(linear: Linear) -> None:
    """Gives a layer without bias one of zeros, and marks it, as its config does not know of it."""
    linear.bias = nn.Parameter(matrix(linear).new_zeros(len(matrix(linear))), requires_grad=linear.weight.requires_grad)
    linear.has_new_bias = True  # type: ignore[assignment]


def has_new_bias(linear: Linear) -> bool:
    """Returns whether `new_bias` gave the layer its bias."""
    return bool(getattr(linear, "has_new_bias", False))


@torch.no_grad()
def write_weights(linear: Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Copies a weight [outputs, inputs] and a bias [outputs] into a layer; ignores the bias if the layer has none."""
    matrix(linear).copy_(weight)
    if linear.bias is not None and bias is not None:
        linear.bias.copy_(bias)
