"""Removes units from a model's linear layers and records the new widths in its config."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.load_guard import QUANT_METHOD
from trimformer.checkpoints.standalone import restore_library_class
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.models.linear import matrix
from trimformer.models.mask_tensors import check_masks
from trimformer.models.removal import keep_units, kept_heads


@torch.no_grad()
def shrink(model: PreTrainedModel, masks: Sequence[Tensor]) -> None:
    """Removes the units whose mask is 0, in place, and folds other factors into the output projection.

    The outputs are those of the masked model. The config records the widths, so that a saved directory loads again.

    Args:
        model: a supported model.
        masks: one per sublayer, [units].

    Raises:
        TrimformerError: there is not one mask per sublayer with a finite number per unit.
    """
    sublayers = find_sublayers(model)
    check_masks(sublayers, masks)
    for sublayer, mask in zip(sublayers, masks, strict=True):
        weight = matrix(sublayer.projection)
        if not ((mask == 0) | (mask == 1)).all():
            weight.mul_(mask.to(weight).repeat_interleave(sublayer.unit_size))
        keep_units(sublayer, mask.nonzero().flatten().to(weight.device))
    record_widths(model)


def record_widths(model: PreTrainedModel) -> None:
    """Writes the number of heads and neurons of each layer into the model's config.

    Families with a tensor indexed by head also record the indices of the remaining heads.
    """
    restore_library_class(model)
    sublayers = find_sublayers(model)
    widths: dict[str, Any] = {
        "quant_method": QUANT_METHOD,
        "heads": [s.num_units for s in sublayers if s.kind == "attention"],
        "neurons": [s.num_units for s in sublayers if s.kind == "ffn"],
    }
    kept = [kept_heads(s) for s in sublayers if s.kind == "attention"]
    if any(heads is not None for heads in kept):
        widths["kept_heads"] = kept
    model.config.quantization_config = widths


def resize(
    model: PreTrainedModel,
    heads: Sequence[int],
    neurons: Sequence[int],
    kept_heads: Sequence[Sequence[int] | None] | None = None,
) -> None:
    """Resizes a model to the widths of a pruned checkpoint, before its weights are loaded.

    Args:
        model: the dense model, as built from its config.
        heads: number of heads per attention sublayer.
        neurons: number of neurons per feed-forward sublayer.
        kept_heads: indices of the remaining heads per attention sublayer, where the family needs them.

    Raises:
        TrimformerError: the widths do not fit the model.
    """
    sublayers = find_sublayers(model)
    widths = {"attention": list(heads), "ffn": list(neurons)}
    for kind, of_kind in widths.items():
        dense = [s.num_units for s in sublayers if s.kind == kind]
        if len(dense) != len(of_kind) or any(
            type(k) is not int or not 0 <= k <= n for k, n in zip(of_kind, dense, strict=True)
        ):
            raise TrimformerError(
                f"the widths in the config's quantization_config do not fit the model: {kind} sublayers have up to "
                f"{dense} units, not {of_kind}"
            )
    _check_kept(kept_heads, widths["attention"], [s.num_units for s in sublayers if s.kind == "attention"])
    counts = {kind: iter(of_kind) for kind, of_kind in widths.items()}
    names = iter(kept_heads or [None] * len(heads))
    for sublayer in sublayers:
        count = next(counts[sublayer.kind])
        kept = next(names) if sublayer.kind == "attention" else None
        # On the CPU even if the model is on the meta device: indices need values.
        units = range(count) if kept is None else kept
        keep_units(sublayer, torch.tensor(list(units), dtype=torch.long, device="cpu"))


def _check_kept(kept_heads: Any, heads: Sequence[int], dense: Sequence[int]) -> None:
    """Checks that the indices of remaining heads match their numbers.

    Raises:
        TrimformerError: an index is out of range or repeated, or a number of heads differs.
    """
    if kept_heads is None:
        return
    fits = isinstance(kept_heads, Sequence) and len(kept_heads) == len(heads)
    for kept, count, of in zip(kept_heads if fits else [], heads, dense, strict=False):
        names = range(count) if kept is None else kept
        fits = fits and all(type(i) is int and 0 <= i < of for i in names) and len(set(names)) == len(names) == count
    if not fits:
        raise TrimformerError(f"kept_heads in the config's quantization_config do not fit the model: {kept_heads}")
