"""Second moments of a model's sublayers, gathered by hooks while a forward and backward pass runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import Sublayer
from trimformer.masking import Hooks


@dataclass
class SublayerMoments:
    """Sums over the calibration tokens that are not padding, in float64.

    Attributes:
        inputs: H, sum of w x x^T over the projection's inputs x, [channels, channels].
        gradients: G, sum of g g^T over the loss gradients g at the projection's output, [hidden, hidden].
        count: number of tokens.
        weight_sum: sum of the token weights w.
        token_norms: ||g|| of each batch, [batch, length] each; 0 at padding.
    """

    inputs: Tensor
    gradients: Tensor
    count: int
    weight_sum: float
    token_norms: list[Tensor]


class CollectMoments(Hooks):
    """Context manager: while it is open, every backward pass adds to `moments`, one per sublayer.

    Tokens weigh in by how much the loss listens to them, w = ||g||^2: a token whose output is never
    read, such as all but the first in a classifier's last layer, counts nothing.

    Args:
        model: its forward must be called with `attention_mask` as a keyword.
        sublayers: the model's.
        token_weighting: False: all tokens weigh 1 in H.
    """

    def __init__(self, model: PreTrainedModel, sublayers: Sequence[Sublayer], token_weighting: bool = True) -> None:
        super().__init__()
        self._model, self._sublayers, self._token_weighting = model, sublayers, token_weighting
        self._mask = torch.empty(0)
        self.moments: list[SublayerMoments] = []
        for s in sublayers:
            channels, hidden, device = s.projection.in_features, s.projection.out_features, s.projection.weight.device
            inputs, gradients = (torch.zeros(n, n, dtype=torch.float64, device=device) for n in (channels, hidden))
            self.moments.append(SublayerMoments(inputs, gradients, 0, 0.0, []))

    def __enter__(self) -> Self:
        self._handles.append(self._model.register_forward_pre_hook(self._see_batch, with_kwargs=True))
        for sublayer, moments in zip(self._sublayers, self.moments, strict=True):
            self._handles.append(sublayer.projection.register_forward_hook(self._watch(moments)))
        return self

    def _see_batch(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._mask = kwargs["attention_mask"].bool()  # [batch, length]

    def _watch(self, moments: SublayerMoments) -> Any:
        def forward_hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x, mask = inputs[0].detach(), self._mask
            output.register_hook(lambda gradient: self._add(moments, x, gradient, mask))

        return forward_hook

    def _add(self, moments: SublayerMoments, x: Tensor, gradient: Tensor, mask: Tensor) -> None:
        weights = gradient.float().square().sum(-1) * mask  # [batch, length]
        moments.token_norms.append(weights.sqrt())
        tokens = (weights > 0) if self._token_weighting else mask
        x, g = x[tokens].float(), gradient[mask].float()  # [tokens, channels], [tokens, hidden]
        if self._token_weighting:
            x = x * weights[tokens].sqrt().unsqueeze(-1)
        moments.inputs += x.T @ x
        moments.gradients += g.T @ g
        moments.count += len(g)
        moments.weight_sum += float(weights.double().sum()) if self._token_weighting else len(g)
