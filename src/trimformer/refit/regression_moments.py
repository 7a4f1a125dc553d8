"""Second moments of a linear map's inputs and targets, which are all that a least-squares fit needs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.utils.distributed import sum_over_processes
from trimformer.utils.gram import SPARSE, ProductSum, gram

HELD_OUT_EVERY = 8  # every eighth sample is held out


@dataclass
class Moments:
    """Weighted sums over tokens of inputs x [channels] and targets y [hidden], in float64."""

    xx: Tensor  # [channels, channels]
    xy: Tensor  # [channels, hidden]
    x: Tensor  # [channels]
    y: Tensor  # [hidden]
    yy: Tensor  # scalar, sum of squares
    count: Tensor  # scalar, sum of weights

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, k) + getattr(other, k) for k in self.__dataclass_fields__))

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Mean over tokens of ||weight x + bias - y||^2, for weight [hidden, channels]."""
        w, total = weight.double(), self.yy.clone()
        total += ((w @ self.xx) * w).sum() - 2 * (w.T * self.xy).sum()
        if bias is not None:
            b = bias.double()
            total += b @ (self.count * b + 2 * (w @ self.x) - 2 * self.y)
        return float(total / self.count.clamp(min=1e-300))


class MomentSums:
    """Sums of moments over batches of tokens, for inputs [tokens, channels] and targets [tokens, hidden]."""

    def __init__(self, channels: int, hidden: int, device: torch.device) -> None:
        self._xx, self._xy = gram(channels, device), ProductSum(channels, hidden, device)
        shapes: list[tuple[int, ...]] = [(channels,), (hidden,), (), ()]
        self._sums = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]

    def add(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Adds tokens x [tokens, channels], y [tokens, hidden] with weights [tokens]; weight 0 leaves a token out."""
        root = weights.float().sqrt().unsqueeze(-1)  # [tokens, 1]
        x, y = x.float() * root, y.float() * root
        self._xx.add(x, x)
        self._xy.add(x, y)
        parts = ((x * root).sum(0), (y * root).sum(0), y.square().sum(), weights.sum())
        for total, part in zip(self._sums, parts, strict=True):
            total += part

    def moments(self) -> Moments:
        """Returns the moments over the tokens of all processes."""
        parts = [self._xx.value, self._xy.value, *self._sums]
        sum_over_processes(*parts)
        return Moments(*parts)


class SplitSums:
    """Moments of the samples to fit on and, apart from them, of the held-out samples."""

    def __init__(self, channels: int, hidden: int, device: torch.device) -> None:
        self._fit, self._held_out = (MomentSums(channels, hidden, device) for _ in range(2))
        self._sparse: bool | None = None

    def add(self, x: Tensor, y: Tensor, weights: Tensor, held_out: Tensor) -> None:
        """Adds a batch: x, y [batch, length, n], weights [batch, length], held_out [batch] of booleans."""
        if self._sparse is None:  # decided once: reading a value from the GPU waits for it
            self._sparse = float((weights > 0).float().mean()) < SPARSE
        for sums, chosen in ((self._fit, ~held_out), (self._held_out, held_out)):
            rows = chosen.nonzero().squeeze(-1)
            if len(rows):
                sums.add(*self._tokens(x[rows], y[rows], weights[rows]))

    def _tokens(self, x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flattens a batch to x, y [tokens, n] and weights [tokens], without weights of 0 where many are 0."""
        x, y, weights = x.flatten(0, 1), y.flatten(0, 1), weights.flatten()
        if self._sparse:
            tokens = weights.nonzero().squeeze(-1)
            x, y, weights = x[tokens], y[tokens], weights[tokens]
        return x, y, weights

    def moments(self) -> tuple[Moments, Moments]:
        """Returns the moments of the samples to fit on and of the held-out samples, over all processes."""
        return self._fit.moments(), self._held_out.moments()
