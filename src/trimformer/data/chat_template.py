"""Puts conversations into a chat template, as pieces of text of which the answers count."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimformer.errors import TrimformerError, one_sentence

logger = logging.getLogger(__name__)

# A piece of text, and whether its tokens count.
Piece = tuple[str, bool]
Messages = list[dict[str, Any]]


class ChatTemplate:
    """Puts conversations into a tokenizer's chat template, and counts what it changes.

    Args:
        tokenizer: the model's tokenizer.

    Raises:
        TrimformerError: it has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise TrimformerError(
                "the tokenizer has no chat template, which 'messages' need; give texts, or a tokenizer with a template"
            )
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_tokens)
        self._count = 0
        self._only_last: list[str] = []  # the rows of which only the last answer counts
        self._incomplete: list[str] = []  # the rows of which something is left out

    def pieces(self, messages: Messages, where: str, tools: list[Any] | None) -> list[Piece]:
        """Returns the pieces of a conversation, up to its last answer; an answer of `weight` 0 does not count.

        Only the last answer counts where the template changes earlier messages when one is added: that of Qwen 3 leaves
        out earlier thoughts.

        Raises:
            TrimformerError: the chat template does not take these messages.
        """
        self._count += 1
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        with one_sentence(f"the chat template does not take the messages of {where}"):
            pieces = self._divided(messages, answers, tools)
            if pieces is None:
                self._only_last.append(where)
                pieces = self._divided(messages, answers[-1:], tools)
            if pieces is None:
                raise TrimformerError("it changes the prompt when the answer is added; give texts instead")
        text = "".join(piece for piece, _ in pieces)
        parts = _contents(messages[: answers[-1] + 1], tools) if answers else ()
        if not all(part in text or json.dumps(part)[1:-1] in text for part in parts):
            self._incomplete.append(where)
        return pieces

    def log(self) -> None:
        """Logs how many conversations count in part, or lack something in the template."""
        if self._only_last:
            logger.warning(
                "in %d of %d conversations (the first: %s) only the last answer counts, because the chat template "
                "changes earlier messages when one is added",
                len(self._only_last),
                self._count,
                self._only_last[0],
            )
        if self._incomplete:
            logger.warning(
                "the chat template leaves out or changes texts, tools or thoughts of %d of %d conversations (the "
                "first: %s); what it leaves out is not read",
                len(self._incomplete),
                self._count,
                self._incomplete[0],
            )

    def _divided(self, messages: Messages, answers: Sequence[int], tools: list[Any] | None) -> list[Piece] | None:
        """Returns the pieces if these answers count; None if the template changes what is before one."""
        pieces: list[Piece] = []
        text = ""
        for number in answers:
            after = self._text(messages[: number + 1], tools)
            if number == 0:  # nothing asks for it, so no template tells where it begins
                pieces, text = [(after, False)], after
                continue
            before = self._text(messages[:number], tools, add_generation_prompt=True)
            if not before.startswith(text) or not after.startswith(before):
                return None
            answer, rest = self._without_rest(after[len(before) :])
            pieces += [(before[len(text) :], False), (answer, messages[number].get("weight") != 0)]
            if rest and number != answers[-1]:
                pieces.append((rest, False))
            text = after
        return pieces

    def _without_rest(self, answer: str) -> tuple[str, str]:
        """Divides an answer behind its last special token, where only white space follows: no model generates that."""
        ends = [answer.rfind(token) + len(token) for token in self._special if token in answer]
        end = max(ends, default=len(answer))
        return (answer, "") if answer[end:].strip() else (answer[:end], answer[end:])

    def _text(self, messages: Messages, tools: list[Any] | None, **options: Any) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options))


def _contents(messages: Messages, tools: list[Any] | None) -> Iterator[str]:
    """Yields texts that a complete chat template writes: of messages, thoughts, and the names of functions."""
    for message in messages:
        yield message["content"].strip()
        thoughts = message.get("reasoning_content")
        yield thoughts.strip() if isinstance(thoughts, str) else ""
        yield from _function_names(message.get("tool_calls"))
    yield from _function_names(tools)


def _function_names(calls: Any) -> Iterator[str]:
    """Yields the names of functions that are called or described."""
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        name = function.get("name") if isinstance(function, Mapping) else None
        yield name if isinstance(name, str) else ""
