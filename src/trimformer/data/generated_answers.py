"""Lets the dense language model answer prompts, so that it can be calibrated on its own answers."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from trimformer.data.batches import IGNORED
from trimformer.data.chat_template import Messages
from trimformer.data.conversations import without_template
from trimformer.data.processor import tokenizer_of
from trimformer.data.rows import NamedRows, Rows
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models.layer_calls import NEXT_TOKENS
from trimformer.models.masking import frozen
from trimformer.utils.progress import progress

logger = logging.getLogger(__name__)

MOST_TOKENS = 256  # of an answer


@torch.no_grad()
def answer_prompts(
    model: PreTrainedModel,
    processor: Any,
    prompts: Sequence[tuple[Messages, list[Any] | None]],
    *,
    how: str,
    length: int,
    seed: int,
) -> Rows:
    """Returns rows of encoded prompts with the model's answers, of which only the answers count.

    Prompts are put into the tokenizer's chat template if it has one.

    Args:
        model: the dense model, on its device.
        processor: its tokenizer.
        prompts: the messages before each answer, with the tools that a chat template describes.
        how: "greedy" takes the most likely tokens, "sample" draws them as the model's generation config says.
        length: most tokens of a prompt with its answer; longer prompts are left out.
        seed: of the draws.

    Raises:
        TrimformerError: no prompt leaves room for an answer, or the chat template does not take the prompts.
    """
    tokenizer = tokenizer_of(processor)
    generator = torch.random.fork_rng([model.device] if model.device.type == "cuda" else [])
    blocks: list[dict[str, list[int]]] = []
    encoded = [_encode(tokenizer, messages, tools) for messages, tools in prompts if messages]
    fitting = [ids for ids in encoded if 0 < len(ids) < length]
    if not fitting:
        raise TrimformerError(f"no prompt leaves room for an answer in {length:,} tokens; raise --seq-len")
    if len(fitting) < len(prompts):
        logger.warning(
            "%d of %d prompts are empty or leave no room for an answer in %d tokens; they are left out",
            len(prompts) - len(fitting),
            len(prompts),
            length,
        )
    with generator, frozen(model), _only(model, how):
        torch.manual_seed(seed)
        for ids in progress(fitting, "answer"):
            blocks.append(_answer(model, ids, min(MOST_TOKENS, length - len(ids))))
    return NamedRows(blocks, {})


@contextmanager
def _only(model: PreTrainedModel, how: str) -> Iterator[None]:
    """Lets a model write greedily or by samples, without penalties, beams or limits of its generation config."""
    own = model.generation_config
    assert own is not None
    ends = {"eos_token_id": own.eos_token_id, "bos_token_id": own.bos_token_id, "pad_token_id": 0}
    drawn = {name: getattr(own, name) for name in ("temperature", "top_p", "top_k")} if how == "sample" else {}
    model.generation_config = GenerationConfig(do_sample=how == "sample", **ends, **drawn)
    try:
        yield
    finally:
        model.generation_config = own


def _encode(tokenizer: Any, messages: Messages, tools: list[Any] | None) -> list[int]:
    """Returns the tokens of a prompt."""
    if not tokenizer.chat_template:
        ids = list(tokenizer(without_template(messages))["input_ids"])
        return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids  # the answer would come after the end
    with one_sentence("the chat template does not take a prompt of the user"):
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _answer(model: PreTrainedModel, prompt: Sequence[int], most: int) -> dict[str, list[int]]:
    """Returns the block of a prompt and its answer."""
    ids = torch.tensor([prompt], device=model.device)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most)[0].tolist()  # type: ignore[operator]
    targets = [IGNORED] * (len(prompt) - 1) + output[len(prompt) :]
    return {"input_ids": output[:-1], NEXT_TOKENS: targets}
