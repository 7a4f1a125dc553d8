"""Second moments of a model's sublayers, from one forward and backward pass over the calibration samples."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem, model_output
from trimformer.importance.fisher import Loss, check_finite_in_all_processes, sample_losses
from trimformer.models import Sublayer, find_sublayers
from trimformer.models.layer_calls import Batch, PaddingTracker, by_position
from trimformer.models.masking import frozen
from trimformer.utils.distributed import failing_together, sum_over_processes
from trimformer.utils.gram import SPARSE, gram
from trimformer.utils.memory import free_memory

logger = logging.getLogger(__name__)


@dataclass
class SublayerMoments:
    """Second moments of a sublayer: float64 sums over the calibration tokens that are not padding.

    Attributes:
        inputs: H, sum of w x x^T over the projection's inputs x, [channels, channels].
        gradients: G, sum of g g^T over the loss gradients g at the projection's output, [hidden, hidden].
        count: number of tokens.
        weight_sum: sum of the token weights w.
        token_norms: ||g|| per batch of this process, [batch, length], or [calls, batch, length] where the layer is
            called at several depths; 0 at padding.
        outputs: the projection's outputs, as it returns them, per batch of this process; empty if they are not kept.
    """

    inputs: Tensor
    gradients: Tensor
    count: int
    weight_sum: float
    token_norms: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)


def collect_moments(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    objective: Loss = "curvature",
    seed: int = 0,
    only: Sequence[int] | None = None,
    keep_outputs: Collection[int] = (),
) -> list[SublayerMoments]:
    """Computes the moments of the dense model's sublayers.

    A token's weight is its influence on the loss, w = ||g||^2: tokens whose output is not used, such as all but the
    first in a classifier's last layer, have weight 0. The backward pass computes gradients of activations only and
    ends at the output of the first projection that is observed.

    Args:
        model: a supported model; not changed.
        batches: padded samples of this process.
        objective: "labels", "curvature" for the label-free loss, or a function (output, batch) -> [batch].
        seed: seed of the random numbers of the label-free loss.
        only: positions of the sublayers to observe, ascending; None observes all.
        keep_outputs: positions of the sublayers whose projections' outputs are kept, as long as more memory is free
            than the outputs of this call take; empty by default.

    Returns:
        One entry per observed sublayer, summed over all processes.

    Raises:
        TrimformerError: a moment is not finite.
    """
    problem, sublayers = find_problem(model), find_sublayers(model)
    observed = range(len(sublayers)) if only is None else only
    sublayers = [sublayers[i] for i in observed]
    sums = [_Sums(s, keep_outputs=i in keep_outputs) for i, s in zip(observed, sublayers, strict=True)]
    with frozen(model), torch.enable_grad(), _MomentObserver(model, sublayers, sums) as observer, failing_together():
        for batch in batches:
            observer.start(batch)
            losses = sample_losses(model_output(model, batch, problem), batch, problem, objective, seed)
            losses.sum().backward()
            if keep_outputs and free_memory(model.device) < sum(s.output_bytes for s in sums):
                logger.info("outputs of the dense model are not kept for the refit: other work needs the memory")
                keep_outputs = ()
                for s in sums:
                    s.release_outputs()
    moments = [s.finish() for s in sums]
    for sublayer, m in zip(sublayers, moments, strict=True):
        check_finite_in_all_processes(m.gradients, f"gradients of {sublayer.name}")
        check_finite_in_all_processes(m.inputs, f"activations of {sublayer.name}")
    return moments


def moment_bytes(sublayer: Sublayer) -> int:
    """Returns the bytes of a sublayer's H and G."""
    return 8 * (sublayer.channels**2 + sublayer.hidden_size**2)


def group_by_memory(sublayers: Sequence[Sublayer], max_memory: float) -> list[list[int]]:
    """Divides sublayers into groups of neighbours whose moments fit into memory, the last ones first.

    A sublayer whose moments alone are larger is a group of its own. Each group needs a forward pass over the samples,
    and a backward pass that ends at its first sublayer.

    Args:
        sublayers: sublayers of the dense model.
        max_memory: bytes that H and G of a group may take.
    """
    groups: list[list[int]] = []
    left = 0.0
    for i in reversed(range(len(sublayers))):
        size = moment_bytes(sublayers[i])
        if not groups or size > left:
            groups.append([])
            left = max_memory
        groups[-1].insert(0, i)
        left -= size
    return groups


class _Sums:
    """Accumulates the moments of one sublayer."""

    def __init__(self, sublayer: Sublayer, *, keep_outputs: bool) -> None:
        device = sublayer.device
        self._keep_outputs, self._outputs = keep_outputs, list[Tensor]()
        self._inputs = gram(sublayer.channels, device)
        self._gradients = gram(sublayer.hidden_size, device)
        self._scalars = torch.zeros(2, dtype=torch.float64, device=device)  # tokens, sum of weights
        self._sparse: bool | None = None
        self._norms: list[list[Tensor]] = []  # per batch and call

    @property
    def output_bytes(self) -> int:
        """Bytes of the outputs that are kept."""
        return sum(output.nbytes for output in self._outputs)

    def release_outputs(self) -> None:
        """Frees the outputs that are kept and keeps no more."""
        self._keep_outputs, self._outputs = False, []

    def start(self) -> None:
        """Begins a batch."""
        self._norms.append([])

    def expect(self, mask: Tensor, output: Tensor) -> int:
        """Registers a call and returns its number; its tokens weigh 0 until `add` receives their gradient."""
        if self._keep_outputs:
            self._outputs.append(output.detach().clone())  # a copy, as a layer may add to it in place (Falcon)
        self._norms[-1].append(torch.zeros_like(mask, dtype=torch.float32))
        return len(self._norms[-1]) - 1

    def add(self, x: Tensor, gradient: Tensor, mask: Tensor, call: int) -> None:
        """Adds a call: x [batch, length, channels], gradient [batch, length, hidden], mask [batch, length]."""
        g = gradient.float() * mask.unsqueeze(-1)
        norms = g.square().sum(-1).sqrt()  # [batch, length], roots of the tokens' weights
        self._norms[-1][call] = norms
        rows, root, g = x.float().flatten(0, 1), norms.flatten().unsqueeze(-1), g.flatten(0, 1)
        if self._sparse is None:  # decided once, as reading a value from a GPU synchronizes
            self._sparse = float((root > 0).float().mean()) < SPARSE
        if self._sparse:
            tokens = root.squeeze(-1).nonzero().squeeze(-1)
            rows, root = rows[tokens], root[tokens]
            g = g[g.any(-1)]
        rows = rows * root  # [tokens, channels]
        self._inputs.add(rows, rows)
        self._gradients.add(g, g)
        self._scalars += torch.stack([mask.sum(), norms.double().square().sum()])

    def finish(self) -> SublayerMoments:
        """Returns the sums over all processes."""
        inputs, gradients = self._inputs.value, self._gradients.value
        sum_over_processes(inputs, gradients, self._scalars)
        tokens, weight_sum = self._scalars.tolist()
        norms = [calls[0] if len(calls) == 1 else torch.stack(calls) for calls in self._norms]
        outputs = self._outputs
        vars(self).clear()  # hooks hold this in a reference cycle, which would keep all of it in memory
        return SublayerMoments(inputs, gradients, int(tokens), weight_sum, norms, outputs)


class _MomentObserver(PaddingTracker):
    """Context manager that adds every backward pass to the sums of all sublayers."""

    def __init__(self, model: nn.Module, sublayers: Sequence[Sublayer], sums: Sequence[_Sums]) -> None:
        super().__init__(model)
        self._pairs = list(zip(sublayers, sums, strict=True))

    def start(self, batch: Batch) -> None:
        """Begins a batch: call it before the forward pass."""
        self.batch = batch
        for _, sums in self._pairs:
            sums.start()

    def __enter__(self) -> Self:
        super().__enter__()
        for sublayer, sums in self._pairs:
            self._handles.append(sublayer.projection.register_forward_hook(self._forward_hook(sums)))
        return self

    def _forward_hook(self, sums: _Sums) -> Callable[..., Tensor]:
        def forward_hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            mask = self.mask
            x = by_position(inputs[0].detach(), mask)
            if not output.requires_grad:  # the first sublayer of a tower: nothing below needs a gradient
                output = output.detach().requires_grad_().clone()  # no leaf, as a layer may add to it in place (Falcon)
            call = sums.expect(mask, output)
            output.register_hook(lambda gradient: sums.add(x, by_position(gradient, mask), mask, call))
            return output

        return forward_hook
