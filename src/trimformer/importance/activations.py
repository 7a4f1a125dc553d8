"""Criteria that look at activations and no gradient: Wanda, FLAP, and the angle by which a layer turns its input."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem, model_output
from trimformer.models import Sublayer, find_layers, find_sublayers
from trimformer.models.layer_calls import Batch, PaddingTracker, by_position, hidden_states
from trimformer.models.linear import matrix
from trimformer.models.masking import frozen
from trimformer.utils.distributed import sum_over_processes


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of each channel of a projection's input over non-padding tokens, in float64.

    Attributes:
        mean: [channels].
        square: mean square, [channels].
        tokens: number of tokens, [channels], the same for all.
    """

    mean: Tensor
    square: Tensor
    tokens: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance of each channel, [channels]."""
        return (self.square - self.mean.square()).clamp(min=0)


@torch.no_grad()
def channel_statistics(model: PreTrainedModel, batches: Iterable[Batch]) -> list[ChannelStatistics]:
    """Computes the statistics of every sublayer's channels in one forward pass, summed over all processes."""
    sublayers, problem = find_sublayers(model), find_problem(model)
    with frozen(model), _ChannelObserver(model, sublayers) as observer:
        for batch in batches:
            observer.batch = batch
            model_output(model, batch, problem)
    sum_over_processes(*observer.sums)
    counts = [total[2].clamp(min=1) for total in observer.sums]
    return [ChannelStatistics(total[0] / count, total[1] / count, total[2])
            for total, count in zip(observer.sums, counts, strict=True)]  # fmt: skip


class _ChannelObserver(PaddingTracker):
    """Context manager that sums the channels of every sublayer.

    Attributes:
        sums: per sublayer [3, channels]: sum, sum of squares, and number of tokens.
    """

    def __init__(self, model: nn.Module, sublayers: Sequence[Sublayer]) -> None:
        super().__init__(model)
        self._sublayers = sublayers
        self.sums = [torch.zeros(3, s.channels, dtype=torch.float64, device=s.device) for s in sublayers]

    def __enter__(self) -> Self:
        super().__enter__()
        for sublayer, total in zip(self._sublayers, self.sums, strict=True):
            self._handles.append(sublayer.projection.register_forward_pre_hook(self._channel_hook(total)))
        return self

    def _channel_hook(self, total: Tensor) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = by_position(inputs[0], self.mask).float()[self.mask]  # [tokens, channels]
            total.add_(torch.stack([x.sum(0), x.square().sum(0), torch.full_like(x[0], len(x))]))

        return add


def wanda_importance(sublayer: Sublayer, channels: ChannelStatistics) -> Tensor:
    """Computes the sum of |W| ||x|| over the weights of each unit, [units].

    Source: Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models", equation 1.
    """
    weights = matrix(sublayer.projection).double().abs().sum(0)  # [channels]
    return (weights * channels.square.sqrt()).view(sublayer.num_units, sublayer.unit_size).sum(1)


def flap_importance(sublayer: Sublayer, channels: ChannelStatistics) -> Tensor:
    """Computes each unit's fluctuation var(x) ||W||^2, standardized over the sublayer, [units].

    Source: An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", section 3.2.
    """
    weights = matrix(sublayer.projection).double().square().sum(0)  # [channels]
    scores = (weights * channels.variance).view(sublayer.num_units, sublayer.unit_size).sum(1)
    return (scores - scores.mean()) / scores.std(unbiased=False).clamp(min=1e-300)


@torch.no_grad()
def layer_angles(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """Computes 1 - cosine between the input and the output of every layer, a mean over tokens, [layers] in float64.

    This is the block influence of Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than
    You Expect", equation 1.
    """
    layers = find_layers(model)
    problem = find_problem(model)
    sums = torch.zeros(len(layers), 2, dtype=torch.float64, device=model.device)
    with frozen(model), _AngleObserver(model, layers, sums) as observer:
        for batch in batches:
            observer.batch = batch
            model_output(model, batch, problem)
    sum_over_processes(sums)
    return sums[:, 0] / sums[:, 1].clamp(min=1)


class _AngleObserver(PaddingTracker):
    """Context manager that sums 1 - cosine and the number of tokens of every layer."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], sums: Tensor) -> None:
        super().__init__(model)
        self._observed, self._sums = layers, sums

    def __enter__(self) -> Self:
        super().__enter__()
        for layer, total in zip(self._observed, self._sums, strict=True):
            self._handles.append(layer.register_forward_hook(self._angle_hook(total), with_kwargs=True))
        return self

    def _angle_hook(self, total: Tensor) -> Callable[..., None]:
        def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            angles = 1 - F.cosine_similarity(before.double(), hidden_states(output).double(), dim=-1)[self.mask]
            total.add_(torch.stack([angles.sum(), angles.new_tensor(len(angles))]))

        return add
