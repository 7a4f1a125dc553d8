"""Tokens that a language model needs whatever the texts are, and how it spells the tokens that it loses.

A token is spelled by the tokens that the smaller tokenizer makes of its characters or bytes. What it reads never
contains a lost token, and what it writes cannot.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimformer.data.processor import tokenize

Spelling = tuple[int, ...]

_BYTES = re.compile(r"(?:<0x[0-9A-Fa-f]{2}>)+")
_ROLES = ("system", "user", "assistant")


def needed_to_write(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Returns the ids of the tokens in the chat template's text, and of the tokens of white space alone."""
    texts = list(_chats(tokenizer)) if tokenizer.chat_template else []
    ids = [ids for text in texts for ids in tokenize(tokenizer, text, add_special_tokens=False)["input_ids"]]
    vocabulary = tokenizer.get_vocab()
    pieces = tokenizer.convert_tokens_to_string  # a token's characters stand for bytes, or for a space
    return {*ids, *(index for token, index in vocabulary.items() if token and not pieces([".", token])[1:].strip())}


def _chats(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yields short conversations in the chat template; a template need not take every role."""
    for roles in (_ROLES, _ROLES[1:], _ROLES[1:2], _ROLES[:2], (*_ROLES[1:], *_ROLES[1:])):
        messages = [{"role": role, "content": "."} for role in roles]
        for begins_answer in (False, True):
            with suppress(Exception):  # templates raise what they like
                yield str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begins_answer))


def spell_tokens(
    tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, kept: Sequence[int], rows: int
) -> list[Spelling]:
    """Returns for each row of the dense model's embeddings the tokens that spell it, by their ids in the dense model.

    Args:
        tokenizer: the dense model's.
        smaller: the tokenizer of the kept tokens.
        kept: ids in the dense model; a token's index is its new id.
        rows: number of rows of the embeddings.

    Returns:
        The token itself if it is kept; empty for a row without a token, and for a token that nothing else spells.
    """
    stays = set(kept)
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    model: Any = smaller.backend_tokenizer.model
    spellings: list[Spelling] = []
    for index in range(rows):
        if index in stays:
            spellings.append((index,))
            continue
        pieces = tuple(kept[piece.id] for piece in model.tokenize(names[index])) if index in names else ()
        is_same = bool(pieces) and _plain(names[piece] for piece in pieces) == _plain([names[index]])
        spellings.append(pieces if is_same else ())
    return spellings


def unspelled(
    tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, kept: Sequence[int], rows: int
) -> set[int]:
    """Returns the ids of the lost tokens that no kept tokens spell; see `spell_tokens` for the arguments."""
    spellings = spell_tokens(tokenizer, smaller, kept, rows)
    return {index for index in tokenizer.get_vocab().values() if index < rows and not spellings[index]}


def _plain(tokens: Iterable[str]) -> bytes:
    """Joins tokens to bytes, byte fallbacks included."""
    parts = re.split(f"({_BYTES.pattern})", "".join(tokens))
    return b"".join(
        bytes.fromhex(re.sub("<0x|>", "", part)) if _BYTES.fullmatch(part) else part.encode() for part in parts
    )
