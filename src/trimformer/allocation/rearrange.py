"""The paper's mask rearrangement, which considers interactions within a sublayer (Kwon et al., section 4.2)."""

import torch
from torch import Tensor


def rearrange_mask(mask: Tensor, grads: Tensor) -> Tensor:
    """Swaps kept and pruned units where that lowers the block-diagonal Fisher loss.

    The loss of the pruned units P is ||sum of g_j over P||^2. In ascending order of importance, each kept unit is added
    to P, and the unit whose removal from P lowers the loss most is kept instead. A step takes O(units), with running
    sums over the Gram matrix of the gradients.

    Args:
        mask: [units], 0 for pruned units.
        grads: mask gradients, [samples, units].

    Returns:
        A mask [units] with the same number of kept units, on the CPU.
    """
    grads = grads.double()
    gram, mask = (grads.T @ grads).cpu(), mask.cpu()  # [units, units]; small steps are faster on the CPU
    importance = gram.diagonal()
    pruned = mask == 0
    if not pruned.any():
        return mask.clone()
    cross = gram[:, pruned].sum(dim=1)  # [units], dot product of g_j and the sum of g over P
    kept = (~pruned).nonzero().flatten()
    for unit in kept[importance[kept].sort(stable=True).indices]:
        pruned[unit] = True
        cross += gram[unit]
        change = importance - 2 * cross  # of the loss if the unit leaves P
        restored = change.masked_fill(~pruned, torch.inf).argmin()
        pruned[restored] = False
        cross -= gram[restored]
    return (~pruned).to(mask.dtype)
