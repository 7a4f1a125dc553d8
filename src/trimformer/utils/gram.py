"""Sums x^T y over batches of tokens: float32 products within a batch, float64 sums across batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

BLOCKS, SMALLEST_BLOCK = 8, 192

# Below this share of tokens with a non-zero weight, leaving out the others is faster than multiplying by zero.
SPARSE = 0.5


class ProductSum:
    """Running sum of x^T y over batches of tokens, [n, m].

    Args:
        n: width of x.
        m: width of y.
        device: device of the sum.
        symmetric: whether y is x; then only the blocks on and above the diagonal are computed, just over half the work.
    """

    def __init__(self, n: int, m: int, device: torch.device, symmetric: bool = False) -> None:
        self._symmetric = symmetric
        self._total = torch.zeros(n, m, dtype=torch.float64, device=device)
        blocks = min(BLOCKS, n // SMALLEST_BLOCK) if symmetric else 1
        self._edges = torch.linspace(0, n, max(blocks, 1) + 1).long().tolist()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch: x [tokens, n], y [tokens, m], float32."""
        with torch.autocast(x.device.type, enabled=False), full_float32():
            for start, stop in zip(self._edges, self._edges[1:], strict=False):
                first = start if self._symmetric else 0
                self._total[start:stop, first:] += x[:, start:stop].T @ y[:, first:]

    @property
    def value(self) -> Tensor:
        """Sum so far, [n, m], float64; `add` changes the same memory later."""
        if self._symmetric:
            for start, stop in zip(self._edges, self._edges[1:], strict=False):
                block = self._total[start:stop, start:stop]  # symmetric except for rounding
                block.copy_(block.triu() + block.triu(1).T)
                self._total[stop:, start:stop] = self._total[start:stop, stop:].T
        return self._total


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns off TF32 and bfloat16 products of float32 matrices, which keep only 10 and 7 bits of the mantissa."""
    switches: list[Any] = [torch.backends.cuda.matmul]
    name: str = "allow_tf32"
    full: Any = False
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # since torch 2.9
        switches.append(torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
        name, full = "fp32_precision", "ieee"
    before = [getattr(switch, name) for switch in switches]
    for switch in switches:
        setattr(switch, name, full)
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


def gram(n: int, device: torch.device) -> ProductSum:
    """Returns a sum of x^T x, [n, n]; call `add(x, x)`."""
    return ProductSum(n, n, device, symmetric=True)
