"""Second moments of what goes into a linear map and what should come out: all that a refit needs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.utils.distributed import add_up
from trimformer.utils.gram import SPARSE, ProductSum, gram


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
    """Adds up moments, tokens by tokens."""

    def __init__(self, channels: int, hidden: int, device: torch.device) -> None:
        self._xx, self._xy = gram(channels, device), ProductSum(channels, hidden, device)
        shapes: list[tuple[int, ...]] = [(channels,), (hidden,), (), ()]
        self._sums = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]

    def add(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Adds tokens: x [tokens, channels], y [tokens, hidden], weights [tokens]; those of weight 0 count nothing."""
        root = weights.float().sqrt().unsqueeze(-1)  # [tokens, 1]
        x, y = x.float() * root, y.float() * root
        self._xx.add(x, x)
        self._xy.add(x, y)
        parts = ((x * root).sum(0), (y * root).sum(0), y.square().sum(), weights.sum())
        for total, part in zip(self._sums, parts, strict=True):
            total += part

    def moments(self) -> Moments:
        """Of all processes together."""
        parts = [self._xx.value, self._xy.value, *self._sums]
        add_up(*parts)
        return Moments(*parts)


class SplitSums:
    """Moments of most samples, and of every eighth of them, the held-out ones."""

    def __init__(self, channels: int, hidden: int, device: torch.device) -> None:
        self._fit, self._held = (MomentSums(channels, hidden, device) for _ in range(2))
        self._sparse: bool | None = None

    def add(self, x: Tensor, y: Tensor, weights: Tensor, held: Tensor) -> None:
        """Adds a batch: x, y [batch, length, n], weights [batch, length], held [batch]: whether held out."""
        if self._sparse is None:  # looked at once: on a GPU every look waits
            self._sparse = float((weights > 0).float().mean()) < SPARSE
        for sums, chosen in ((self._fit, ~held), (self._held, held)):
            rows = chosen.nonzero().squeeze(-1)
            if len(rows):
                sums.add(*self._tokens(x[rows], y[rows], weights[rows]))

    def _tokens(self, x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, y [tokens, n], weights [tokens]."""
        x, y, weights = x.flatten(0, 1), y.flatten(0, 1), weights.flatten()
        if self._sparse:
            tokens = weights.nonzero().squeeze(-1)
            x, y, weights = x[tokens], y[tokens], weights[tokens]
        return x, y, weights

    def moments(self) -> tuple[Moments, Moments]:
        """Of the samples to fit on, and of the held-out ones."""
        return self._fit.moments(), self._held.moments()
