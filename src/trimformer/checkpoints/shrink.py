"""Removes units from a model's linear layers and records the new widths in its config."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.load_guard import QUANT_METHOD
from trimformer.checkpoints.standalone import restore_library_class
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.models.linear import has_new_bias, matrix, new_bias
from trimformer.models.mask_tensors import check_masks
from trimformer.models.removal import keep_queries, keep_units, kept_heads


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

    Families with a tensor indexed by head also record the indices of the remaining heads. Sublayers whose projection
    has a bias that the family's own has not are recorded by number, as are query heads per unit if some were removed.
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
    queries = [s.queries for s in sublayers if s.kind == "attention"]
    if any(queries[0] != number for number in queries) or _dense_queries(model) not in (None, queries[0]):
        widths["queries"] = queries
    biases = [i for i, s in enumerate(sublayers) if has_new_bias(s.projection)]
    if biases:
        widths["new_biases"] = biases
    model.config.quantization_config = widths


def _dense_queries(model: PreTrainedModel) -> int | None:
    """Returns the query heads per key-value head by the config; None if it names no such numbers."""
    config = model.config.get_text_config()
    heads, units = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    return heads // units if isinstance(heads, int) and isinstance(units, int) and units else None


def resize(
    model: PreTrainedModel,
    heads: Sequence[int],
    neurons: Sequence[int],
    kept_heads: Sequence[Sequence[int] | None] | None = None,
    new_biases: Sequence[int] = (),
    queries: Sequence[int] | None = None,
) -> None:
    """Resizes a model to the widths of a pruned checkpoint, before its weights are loaded.

    Args:
        model: the dense model, as built from its config.
        heads: number of heads per attention sublayer.
        neurons: number of neurons per feed-forward sublayer.
        kept_heads: indices of the remaining heads per attention sublayer, where the family needs them.
        new_biases: numbers of the sublayers whose projection has a bias that the family's own has not.
        queries: query heads per unit of each attention sublayer, where some were removed.

    Raises:
        TrimformerError: the widths do not fit the model.
    """
    if queries is not None:
        _resize_queries(model, queries)
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
    for number in new_biases:
        if type(number) is not int or not 0 <= number < len(sublayers):
            raise TrimformerError(f"new_biases in the config's quantization_config do not fit the model: {new_biases}")
        new_bias(sublayers[number].projection)
    for sublayer in sublayers:
        count = next(counts[sublayer.kind])
        kept = next(names) if sublayer.kind == "attention" else None
        # On the CPU even if the model is on the meta device: indices need values.
        units = range(count) if kept is None else kept
        keep_units(sublayer, torch.tensor(list(units), dtype=torch.long, device="cpu"))


def resize_by(model: PreTrainedModel, widths: Mapping[str, Any]) -> None:
    """Resizes a model as the `quantization_config` of a pruned checkpoint describes; see `resize`."""
    optional = {name: widths[name] for name in ("kept_heads", "new_biases", "queries") if name in widths}
    resize(model, widths["heads"], widths["neurons"], **optional)


def _resize_queries(model: PreTrainedModel, queries: Sequence[int]) -> None:
    """Leaves each attention sublayer as many query heads per unit as given.

    Raises:
        TrimformerError: the numbers do not fit the model.
    """
    sublayers = [s for s in find_sublayers(model) if s.kind == "attention"]
    fits = len(queries) == len(sublayers) and all(
        type(number) is int and (number == s.queries or (s.queries_attribute and 1 <= number < s.queries))
        for number, s in zip(queries, sublayers, strict=True)
    )
    if not fits:
        raise TrimformerError(f"queries in the config's quantization_config do not fit the model: {queries}")
    for sublayer, number in zip(sublayers, queries, strict=True):
        if number < sublayer.queries:
            kept = torch.zeros(sublayer.num_units, sublayer.queries, dtype=torch.bool, device="cpu")
            kept[:, :number] = True
            keep_queries(sublayer, kept)


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
