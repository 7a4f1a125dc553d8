"""Generates text with tiny random language models, masked and pruned, with every kind of key-value cache."""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from testing.families import GENERATORS, difference, inputs, make, random_masks
from testing.models import pruned
from trimformer.models import find_sublayers
from trimformer.models.masking import MaskUnits

NEW_TOKENS = 5

CACHES: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "dynamic cache": {"cache_implementation": "dynamic"},
    "static cache": {"cache_implementation": "static"},
}


def make_generator(family: str) -> PreTrainedModel:
    """Creates the family's tiny language model, without an end token."""
    model = make(family, GENERATORS[family])
    model.generation_config.eos_token_id = None
    return model


def right_padded(model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns a batch of texts of different lengths, padded on the right."""
    return {name: value for name, value in inputs(model, 3).items() if name != "index"}


def left_padded(model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns the same texts, padded on the left."""
    batch = right_padded(model)
    lengths = batch["attention_mask"].sum(1).tolist()
    return {
        name: torch.stack([row.roll(-length) for row, length in zip(rows, lengths, strict=True)])
        for name, rows in batch.items()
    }


def masks_without(model: PreTrainedModel, emptied: Sequence[int]) -> list[Tensor]:
    """Draws masks without attention in the layers `emptied`, with some everywhere else, and without the last FFN."""
    sublayers, masks = find_sublayers(model), random_masks(model)
    for sublayer, mask in zip(sublayers, masks, strict=True):
        if sublayer.kind == "attention":
            mask[0] = 1
            mask *= sublayer.layer not in emptied
    masks[-1][:] = 0
    return masks


def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Returns the logits [batch, length, vocabulary], 0 at padding."""
    with torch.no_grad():
        return model(**batch, use_cache=False).logits * batch["attention_mask"].unsqueeze(-1)  # type: ignore[no-any-return]


def generate(model: PreTrainedModel, batch: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """Decodes greedily; returns the logits of the new tokens [tokens, batch, vocabulary], and all token ids."""
    result: Any = model.generate(  # type: ignore[operator]
        **batch, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=1, output_logits=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip
    return torch.stack(result.logits), result.sequences


def _masked_is_shrunk(model: PreTrainedModel) -> float:
    masks, batches = masks_without(model, (1,)), (left_padded(model), right_padded(model))
    with MaskUnits(find_sublayers(model), masks):
        expected = [logits(model, batch) for batch in batches]
    student = pruned(model, masks)
    return max(difference(logits(student, b), e) for b, e in zip(batches, expected, strict=True))


def _saved_is_reloaded(model: PreTrainedModel) -> float:
    student, batch = pruned(model, masks_without(model, (1,))), left_padded(model)
    with tempfile.TemporaryDirectory() as directory:
        student.save_pretrained(directory)
        loaded = type(model).from_pretrained(directory).eval()
        return difference(logits(loaded, batch), logits(student, batch))


def _generated(cache: str, emptied: Sequence[int]) -> Callable[[PreTrainedModel], float]:
    def check(model: PreTrainedModel) -> float:
        masks, batch = masks_without(model, emptied), left_padded(model)
        with MaskUnits(find_sublayers(model), masks):
            expected, _ = generate(model, batch, use_cache=False)
        return difference(generate(pruned(model, masks), batch, **CACHES[cache])[0], expected)

    return check


# The columns of the table of language models in docs/families.md.
GENERATION_CHECKS: dict[str, Callable[[PreTrainedModel], float]] = {
    "masked == shrunk": _masked_is_shrunk,
    "saved == reloaded": _saved_is_reloaded,
    "dynamic cache": _generated("dynamic cache", (0,)),
    "static cache": _generated("static cache", (0,)),
    "no attention left": _generated("dynamic cache", (0, 1, 2)),
}
