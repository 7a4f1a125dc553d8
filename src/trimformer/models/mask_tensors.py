"""The paper's two tensors of masks, and one mask for each sublayer."""

from collections.abc import Sequence

from torch import Tensor, nn

from trimformer.models import Sublayer


def stack_masks(sublayers: Sequence[Sublayer], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The paper's `head_mask` [layers, heads] and `neuron_mask` [layers, neurons].

    Layers of a model that was shrunk before may differ in width; absent units are zeros at the end.
    """

    def stack(kind: str) -> Tensor:
        rows = [m.detach().float().cpu() for s, m in zip(sublayers, masks, strict=True) if s.kind == kind]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return stack("attention"), stack("ffn")


def unstack_masks(sublayers: Sequence[Sublayer], head_mask: Tensor, neuron_mask: Tensor) -> list[Tensor]:
    """One mask per sublayer from the paper's two tensors; inverse of `stack_masks`."""
    rows = {"attention": iter(head_mask), "ffn": iter(neuron_mask)}
    return [next(rows[s.kind])[: s.num_units] for s in sublayers]
