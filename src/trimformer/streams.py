"""Teacher and student walked together, sublayer by sublayer from the bottom.

Whatever refits the student's output projections stands on this: the teacher gives the target of the
residual stream, the student, already shrunk and refitted below, gives the inputs. What a fit needs is
a few second moments, never a matrix of all tokens.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import Sublayer, find_sublayers
from trimformer.calibration import Batch, model_inputs, token_mask
from trimformer.gram import SPARSE, ProductSum, gram
from trimformer.masking import collect_layer_inputs, frozen
from trimformer.processes import add_up

# (index of the sublayer, index of the batch) -> [batch, length] weights of tokens; 0 leaves one out.
TokenWeights = Callable[[int, int], Tensor]
Progress = Callable[[Iterable[Any]], Iterable[Any]]

HELD_OUT_EVERY = 8


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

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, k) - getattr(other, k) for k in self.__dataclass_fields__))

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


@dataclass
class Refit:
    """What became of one sublayer's refit. Errors are mean squared errors per token of the residual sum.

    Attributes:
        sublayer: its name.
        units: units kept.
        accepted: whether the projection was changed.
        error_before: with the weights as they were.
        error_after: with the new weights, or the old ones where there are none.
        ridge: relative ridge that was used, None without.
        note: why nothing was changed, or empty.
        alignment: the same of what the sublayer reads, where that was aligned with the teacher's.
    """

    sublayer: str
    units: int
    accepted: bool
    error_before: float
    error_after: float
    ridge: float | None = None
    note: str = ""
    alignment: "Refit | None" = None


@dataclass
class Step:
    """One sublayer of the walk, and the moments of what goes into a linear map and what should come out.

    For its projection, what should come out is the teacher's residual sum less the student's residual;
    for its alignment, the student's hidden states go in and the teacher's should come out.

    Attributes:
        index: position among the sublayers.
        sublayer: the student's; its weights may be changed before the walk goes on.
        fit: moments of the samples to fit on.
        held_out: moments of the other samples.
    """

    index: int
    sublayer: Sublayer
    fit: Moments
    held_out: Moments


@torch.no_grad()
def walk(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    teacher_masks: Sequence[Tensor] | None = None,
    token_weights: TokenWeights | None = None,
    align: Callable[[Step], None] | None = None,
    max_memory: float = math.inf,
    progress: Progress = iter,
) -> Iterator[Step]:
    """Yields every sublayer once, bottom first; goes on with the student's projection as it is then.

    Args:
        teacher: the dense model.
        student: a shrunk copy of it.
        batches: calibration samples, this process's part of them.
        teacher_masks: one per sublayer, to walk a masked teacher.
        token_weights: weights of tokens; without it every token that is not padding weighs 1.
        align: called before a sublayer runs, to change the producers that read the student's hidden states;
            all tokens weigh 1 then, as attention reads them all.
        max_memory: bytes that hidden states and channels may take. Beyond, channels are computed twice instead
            of kept, and hidden states go to temporary files.
        progress: wraps the list of sublayers, to show how far the walk is.
    """
    pairs = list(zip(find_sublayers(teacher), find_sublayers(student), strict=True))
    masks = [token_mask(batch) for batch in batches]
    held_rows = [(batch["index"] % HELD_OUT_EVERY == 0).nonzero().squeeze(-1) for batch in batches]
    tokens = sum(mask.numel() for mask in masks)
    hidden = pairs[0][0].projection.out_features
    in_memory = 2 * hidden * tokens * teacher.dtype.itemsize
    widest = max(s.projection.in_features for _, s in pairs) * tokens * teacher.dtype.itemsize
    keep_channels = in_memory + widest <= max_memory
    with frozen(teacher), frozen(student), HiddenStates.place(in_memory > max_memory) as new:
        inputs = collect_layer_inputs(teacher, (model_inputs(batch) for batch in batches))
        teacher_hidden, student_hidden = new(), new()  # per batch [batch, length, hidden]
        attention_masks = []
        for hidden_states, attention_mask in inputs:
            teacher_hidden.append(hidden_states)
            student_hidden.append(hidden_states)
            attention_masks.append(attention_mask)
        for index, (source, sublayer) in enumerate(progress(pairs)):
            projection, norm = sublayer.projection, sublayer.norm
            if align is not None and index:
                sums = _SplitSums(hidden, hidden, projection.weight.device)
                for i, held in enumerate(held_rows):
                    sums.add(student_hidden[i], teacher_hidden[i], masks[i], held)
                align(Step(index, sublayer, *sums.moments()))
            sums = _SplitSums(projection.in_features, hidden, projection.weight.device)
            factors = (
                None
                if teacher_masks is None
                else teacher_masks[index].to(teacher.device).repeat_interleave(source.unit_size)
            )
            kept = []
            for i, attention_mask in enumerate(attention_masks):
                before = teacher_hidden[i]
                x = source.channels(before, attention_mask)
                target = source.projection(x if factors is None else x * factors.to(x.dtype)) + before
                teacher_hidden[i] = source.norm(target)
                before = student_hidden[i]
                x = sublayer.channels(before, attention_mask)  # [batch, length, channels]
                weights = masks[i] if token_weights is None else token_weights(index, i)
                sums.add(x, target - before, weights, held_rows[i])
                if keep_channels:
                    kept.append(x)
            yield Step(index, sublayer, *sums.moments())
            for i, attention_mask in enumerate(attention_masks):
                before = student_hidden[i]
                x = kept[i] if keep_channels else sublayer.channels(before, attention_mask)
                student_hidden[i] = norm(projection(x) + before)


class _SplitSums:
    """Moments of all samples, and of every eighth of them, the held-out ones."""

    def __init__(self, channels: int, hidden: int, device: torch.device) -> None:
        self._all, self._held = (MomentSums(channels, hidden, device) for _ in range(2))
        self._sparse: bool | None = None

    def add(self, x: Tensor, y: Tensor, weights: Tensor, held: Tensor) -> None:
        """Adds a batch: x, y [batch, length, n], weights [batch, length], held: indices of held-out samples."""
        if self._sparse is None:  # looked at once: on a GPU every look waits
            self._sparse = float((weights > 0).float().mean()) < SPARSE
        self._add(self._all, x, y, weights)
        if len(held):
            self._add(self._held, x[held], y[held], weights[held])

    def _add(self, sums: MomentSums, x: Tensor, y: Tensor, weights: Tensor) -> None:
        x, y, weights = x.flatten(0, 1), y.flatten(0, 1), weights.flatten()
        if self._sparse:
            tokens = weights.nonzero().squeeze(-1)
            x, y, weights = x[tokens], y[tokens], weights[tokens]
        sums.add(x, y, weights)

    def moments(self) -> tuple[Moments, Moments]:
        """Of the samples to fit on, and of the held-out ones."""
        held = self._held.moments()
        return self._all.moments() - held, held


class HiddenStates:
    """A list of tensors, one per batch, in memory or in temporary files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._items: list[Tensor] = []
        self._files: list[Path] = []

    @classmethod
    @contextmanager
    def place(cls, on_disk: bool) -> Iterator[Callable[[], "HiddenStates"]]:
        """Makes lists; their files are gone on exit."""
        if not on_disk:
            yield lambda: cls(None)
            return
        with tempfile.TemporaryDirectory(prefix="trimformer-") as folder:
            yield lambda: cls(Path(tempfile.mkdtemp(dir=folder)))

    def append(self, item: Tensor) -> None:
        if self._folder is None:
            self._items.append(item)
        else:
            self._items.append(item.new_empty(0))  # keeps the device
            self._files.append(self._folder / f"{len(self._files)}.pt")
            self[len(self._files) - 1] = item

    def __getitem__(self, i: int) -> Tensor:
        if self._folder is None:
            return self._items[i]
        loaded: Tensor = torch.load(self._files[i], weights_only=True)
        return loaded.to(self._items[i].device)

    def __setitem__(self, i: int, item: Tensor) -> None:
        if self._folder is None:
            self._items[i] = item
        else:
            torch.save(item.cpu(), self._files[i])
