"""Teacher and student walked together, sublayer by sublayer from the bottom.

Whatever refits the student's output projections stands on this: the teacher gives the target of the
residual stream, the student, already shrunk and refitted below, gives the inputs. What a fit needs is
a few second moments, never a matrix of all tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import Sublayer, find_sublayers
from trimformer.calibration import Batch, model_inputs, token_mask
from trimformer.masking import collect_layer_inputs, frozen

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

    @classmethod
    def zeros(cls, channels: int, hidden: int, device: torch.device) -> "Moments":
        shapes: list[tuple[int, ...]] = [(channels, channels), (channels, hidden), (channels,), (hidden,), (), ()]
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Adds tokens: x [tokens, channels], y [tokens, hidden], weights [tokens]."""
        weighted = x * weights.unsqueeze(-1)
        self.xx += weighted.T @ x
        self.xy += weighted.T @ y
        self.x += weighted.sum(0)
        self.y += weights @ y
        self.yy += weights @ y.square().sum(1)
        self.count += weights.sum()

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, k) + getattr(other, k) for k in self.__dataclass_fields__))

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Mean over tokens of ||weight x + bias - y||^2, for weight [hidden, channels]."""
        w, total = weight.double(), self.yy.clone()
        total += ((w @ self.xx) * w).sum() - 2 * (w.T * self.xy).sum()
        if bias is not None:
            b = bias.double()
            total += b @ (self.count * b + 2 * (w @ self.x) - 2 * self.y)
        return float(total / self.count)


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
    progress: Progress = iter,
) -> Iterator[Step]:
    """Yields every sublayer once, bottom first; goes on with the student's projection as it is then.

    Args:
        teacher: the dense model.
        student: a shrunk copy of it.
        batches: calibration samples.
        teacher_masks: one per sublayer, to walk a masked teacher.
        token_weights: weights of tokens; without it every token that is not padding weighs 1.
        align: called before a sublayer runs, to change the producers that read the student's hidden states;
            all tokens weigh 1 then, as attention reads them all.
        progress: wraps the list of sublayers, to show how far the walk is.
    """
    with frozen(teacher), frozen(student):
        inputs = list(collect_layer_inputs(teacher, (model_inputs(batch) for batch in batches)))
        teacher_hidden = [layer_input.hidden for layer_input in inputs]  # per batch [batch, length, hidden]
        student_hidden = list(teacher_hidden)
        pairs = list(zip(find_sublayers(teacher), find_sublayers(student), strict=True))
        for index, (source, sublayer) in enumerate(progress(pairs)):
            projection, norm = sublayer.projection, sublayer.norm
            channels, hidden, device = projection.in_features, projection.out_features, projection.weight.device
            if align is not None and index:
                fit, held_out = (Moments.zeros(hidden, hidden, device) for _ in range(2))
                for batch, x, y in zip(batches, student_hidden, teacher_hidden, strict=True):
                    _add_split(fit, held_out, batch, x, y, token_mask(batch))
                align(Step(index, sublayer, fit, held_out))
            fit, held_out = (Moments.zeros(channels, hidden, device) for _ in range(2))
            mask = None if teacher_masks is None else teacher_masks[index].repeat_interleave(source.unit_size)
            student_channels = []
            for i, batch in enumerate(batches):
                x = source.channels(teacher_hidden[i], inputs[i].attention_mask)
                target = source.projection(x if mask is None else x * mask.to(x.dtype)) + teacher_hidden[i]
                teacher_hidden[i] = source.norm(target)
                x = sublayer.channels(student_hidden[i], inputs[i].attention_mask)  # [batch, length, channels]
                student_channels.append(x)
                weights = token_mask(batch) if token_weights is None else token_weights(index, i)
                _add_split(fit, held_out, batch, x, target - student_hidden[i], weights)
            yield Step(index, sublayer, fit, held_out)
            for i, x in enumerate(student_channels):
                student_hidden[i] = norm(projection(x) + student_hidden[i])


def _add_split(fit: Moments, held_out: Moments, batch: Batch, x: Tensor, y: Tensor, weights: Tensor) -> None:
    """Adds a batch's tokens of positive weight [batch, length], every eighth sample to the held-out moments."""
    is_held_out = batch["index"] % HELD_OUT_EVERY == 0  # [batch]
    for moments, rows in ((fit, ~is_held_out), (held_out, is_held_out)):
        tokens = (weights > 0) & rows.unsqueeze(-1)  # [batch, length]
        moments.add(x[tokens].float(), y[tokens].float(), weights[tokens].float())
