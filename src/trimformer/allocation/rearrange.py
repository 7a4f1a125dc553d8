"""The paper's mask rearrangement: interactions within a sublayer (section 4.2)."""

import torch
from torch import Tensor


def rearrange_mask(mask: Tensor, grads: Tensor) -> Tensor:
    """Swaps kept for pruned units where that lowers the block-diagonal Fisher loss.

    With P the pruned units, the loss is ||sum of g_j over P||^2. From the lowest importance up, each
    kept unit is added to P and the one whose removal lowers the loss most leaves it. Running sums over
    the Gram matrix of the gradients make a step O(units).

    Args:
        mask: [units], zeros for pruned units.
        grads: mask gradients, [samples, units].

    Returns:
        A mask with as many units kept, on the CPU.
    """
    grads = grads.double()
    gram, mask = (grads.T @ grads).cpu(), mask.cpu()  # [units, units]; many small steps follow
    importance = gram.diagonal()
    pruned = mask == 0
    if not pruned.any():
        return mask.clone()
    cross = gram[:, pruned].sum(dim=1)  # [units], g_j . sum of g over P
    kept = (~pruned).nonzero().flatten()
    for unit in kept[importance[kept].sort(stable=True).indices]:
        pruned[unit] = True
        cross += gram[unit]
        change = importance - 2 * cross  # of the loss, were the unit to leave P
        leaves = change.masked_fill(~pruned, torch.inf).argmin()
        pruned[leaves] = False
        cross -= gram[leaves]
    return (~pruned).to(mask.dtype)
