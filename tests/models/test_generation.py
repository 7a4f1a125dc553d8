"""Pruned language models generate the same text as masked ones, with every kind of cache."""

import copy
from functools import cache

import pytest
import torch
import transformers

from testing.families import GENERATORS, difference
from testing.generation import CACHES, generate, left_padded, logits, make_generator, masks_without, right_padded
from testing.models import pruned
from trimformer.models import find_sublayers
from trimformer.models.masking import MaskUnits

# Layers without attention; in layer 0, caches count the tokens. The quick case has both kinds.
CASES = [
    *((family, (0, 1)) for family in GENERATORS),
    *(
        pytest.param(family, emptied, marks=pytest.mark.slow)
        for emptied in [(0,), (0, 1, 2), (), (1,)]
        for family in (GENERATORS if 0 in emptied else ("Llama", "Gemma2", "GPT2", "GPTNeoX"))
    ),
]


@cache
def dense(family):
    """Returns a cached model; tests change copies of it."""
    if not hasattr(transformers, GENERATORS[family]):
        pytest.skip("this version of transformers has no such model")
    return make_generator(family)


def test_batches_are_padded_on_the_left():
    mask = left_padded(dense("Llama"))["attention_mask"]
    assert not mask[:, 0].all()
    assert mask[:, -1].all()


@pytest.mark.parametrize(("family", "emptied"), CASES)
def test_a_pruned_model_generates_the_text_of_the_masked_one(family, emptied, tmp_path):
    """Compares logits, and greedy decoding token by token, of the masked, the shrunk and the reloaded model."""
    model = dense(family)
    masks = masks_without(model, emptied)
    student = pruned(model, masks)
    student.save_pretrained(tmp_path)
    # Copied, as memory alignment of a file's weights may change the last bit.
    loaded = copy.deepcopy(type(model).from_pretrained(tmp_path).eval())
    left, right = left_padded(model), right_padded(model)
    with MaskUnits(find_sublayers(model), masks):
        expected_logits = [logits(model, batch) for batch in (left, right)]
        expected, text = generate(model, left, use_cache=False)
    for batch, expected_of_batch in zip((left, right), expected_logits, strict=True):
        assert difference(logits(student, batch), expected_of_batch) < 1e-5
        assert torch.equal(logits(loaded, batch), logits(student, batch))
    for options in CACHES.values():
        loaded_logits, loaded_text = generate(loaded, left, **options)
        assert torch.equal(loaded_text, text)
        assert difference(loaded_logits, expected) < 1e-5


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"prompt_lookup_num_tokens": 2}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_caches_are_reordered_and_cropped_in_layers_without_attention(family, options):
    model = dense(family)
    masks = masks_without(model, (0, 1))
    batch = left_padded(model)
    if "prompt_lookup_num_tokens" in options:
        batch = {name: value[:1] for name, value in batch.items()}
    options = {**options, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    with MaskUnits(find_sublayers(model), masks):
        expected = model.generate(**batch, **options)
    assert torch.equal(pruned(model, masks).generate(**batch, **options), expected)
