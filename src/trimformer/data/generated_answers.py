"""Lets the dense language model answer prompts, so that it can be calibrated on its own answers."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from trimformer.data.batches import IGNORED
from trimformer.data.processor import tokenizer_of
from trimformer.data.rows import NamedRows, Rows
from trimformer.data.tasks.text_values import column_texts
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models.layer_calls import NEXT_TOKENS
from trimformer.models.masking import frozen
from trimformer.utils.progress import progress

MOST_TOKENS = 256  # of an answer


@torch.no_grad()
def answer_prompts(
    model: PreTrainedModel, processor: Any, rows: Rows, column: str, *, how: str, length: int, seed: int
) -> Rows:
    """Returns rows of encoded prompts with the model's answers, of which only the answers count.

    Prompts are put into the tokenizer's chat template if it has one.

    Args:
        model: the dense model, on its device.
        processor: its tokenizer.
        rows: rows with a prompt each.
        column: their column.
        how: "greedy" takes the most likely tokens, "sample" draws them.
        length: most tokens of a prompt with its answer; longer prompts are left out.
        seed: of the draws.

    Raises:
        TrimformerError: no prompt leaves room for an answer, or the chat template does not take the prompts.
    """
    tokenizer = tokenizer_of(processor)
    generator = torch.random.fork_rng([model.device] if model.device.type == "cuda" else [])
    blocks: list[dict[str, list[int]]] = []
    encoded = [_encode(tokenizer, text) for text in column_texts(rows, column)]
    encoded = [ids for ids in encoded if 0 < len(ids) < length]
    if not encoded:
        raise TrimformerError(f"no prompt leaves room for an answer in {length:,} tokens; raise --seq-len")
    with generator, frozen(model):
        torch.manual_seed(seed)
        for ids in progress(encoded, "answer"):
            blocks.append(_answer(model, ids, how, min(MOST_TOKENS, length - len(ids))))
    return NamedRows(blocks, {})


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Returns the tokens of a prompt."""
    if not tokenizer.chat_template:
        return list(tokenizer(text)["input_ids"])
    with one_sentence("the chat template does not take a prompt of the user"):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _answer(model: PreTrainedModel, prompt: Sequence[int], how: str, most: int) -> dict[str, list[int]]:
    """Returns the block of a prompt and its answer."""
    ids = torch.tensor([prompt], device=model.device)
    options = {"do_sample": how == "sample", "max_new_tokens": most, "pad_token_id": 0}
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()  # type: ignore[operator]
    targets = [IGNORED] * (len(prompt) - 1) + output[len(prompt) :]
    return {"input_ids": output[:-1], NEXT_TOKENS: targets}
