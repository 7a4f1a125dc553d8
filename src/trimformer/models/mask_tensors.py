"""Converts between the paper's two mask tensors and one mask per sublayer."""

from collections.abc import Sequence

from torch import Tensor, nn

from trimformer.models import Kind, Sublayer


def stack_masks(sublayers: Sequence[Sublayer], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stacks masks into the paper's `head_mask` [layers, heads] and `neuron_mask` [layers, neurons], float32.

    Where layers differ in width, as in a model that is pruned already, rows are padded with zeros at the end.
    """

    def stack(kind: Kind) -> Tensor:
        rows = [m.detach().float().cpu() for s, m in zip(sublayers, masks, strict=True) if s.kind == kind]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return stack("attention"), stack("ffn")


def unstack_masks(sublayers: Sequence[Sublayer], head_mask: Tensor, neuron_mask: Tensor) -> list[Tensor]:
    """Splits the paper's two tensors into one mask [units] per sublayer; inverse of `stack_masks`."""
    rows = {"attention": iter(head_mask), "ffn": iter(neuron_mask)}
    return [next(rows[s.kind])[: s.num_units] for s in sublayers]
