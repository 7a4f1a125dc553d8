"""Reads conversations, and prompts with answers, as pieces of text of which the answers count."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimformer.data.chat_template import ChatTemplate, Messages, Piece
from trimformer.data.json_layouts import MESSAGES as MESSAGES
from trimformer.data.processor import tokenize
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import guess_column
from trimformer.data.tasks.text_values import as_text, is_blank
from trimformer.errors import TrimformerError, listed, quoted

logger = logging.getLogger(__name__)

# Usual pairs, tried first; then any other prompt with any other answer.
_PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("prompt", "answer"), ("instruction", "output"),
    ("instruction", "response"), ("question", "response"), ("question", "answer"), ("problem", "solution"),
    ("query", "response"), ("input", "output"),
)  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input")
ANSWERS = ("completion", "response", "answer", "output", "solution", "chosen")
# Columns of a text that belongs to the prompt of the same row, by the column of the prompt.
CONTEXTS = {"instruction": ("input", "context"), "question": ("context", "passage"), "prompt": ("context",)}
SYSTEMS = ("system", "system_prompt")
TOOLS = ("tools",)
# Names of roles in other notations than that of chat templates.
_ROLES = {"human": "user"} | dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model"), "assistant")


@dataclass(frozen=True)
class PromptColumns:
    """The columns of prompts or conversations.

    Attributes:
        prompt: of prompts, or of conversations.
        answer: of answers; None for conversations, and where the model writes the answers.
        context: of texts that belong to the prompts, with an empty line between them.
        system: of system messages.
        tools: of the tools that a chat template describes.
    """

    prompt: str
    answer: str | None = None
    context: str | None = None
    system: str | None = None
    tools: str | None = None

    @classmethod
    def find(cls, rows: Rows, prompt: str, answer: str | None = None, *, alone: bool = False) -> "PromptColumns":
        """Returns these columns and those that belong to them by their usual names, and logs what is not read.

        Args:
            rows: the rows.
            prompt: see `PromptColumns`.
            answer: see `PromptColumns`.
            alone: whether only these columns are read, as the user names them.
        """
        present = dict.fromkeys(name for row in rows for name, value in row.items() if value is not None)
        others = [name for name in present if name not in (prompt, answer)]
        context, system, tools = (
            None if alone else guess_column(names, others)
            for names in (CONTEXTS.get(prompt.strip().lower(), ()), SYSTEMS, TOOLS)
        )
        if context is not None and not any(isinstance(row.get(context), str | int | float) for row in rows):
            logger.warning("column %s holds no texts, so it is no part of the prompts", quoted(context))
            context = None
        if tools is not None and not any(map(_is_list_of_mappings, (_parsed(row.get(tools)) for row in rows))):
            logger.warning("column %s holds no descriptions of tools, so it is no part of the prompts", quoted(tools))
            tools = None
        read = [name for name in (prompt, answer, context, system, tools) if name]
        unread = [name for name in others if name not in read]
        ending = f"; not {listed(unread)}" if unread else ""
        logger.info("of the columns, %s %s read%s", listed(read), "is" if len(read) == 1 else "are", ending)
        return cls(prompt, answer, context, system, tools)


def find_pair(columns: Sequence[str]) -> tuple[str, str] | None:
    """Returns the columns of prompts and answers by their usual names; None if there are none."""
    for pair in _PAIRS:
        found = [guess_column((name,), columns) for name in pair]
        if found[0] and found[1]:
            return found[0], found[1]
    prompt = guess_column(PROMPTS, columns)
    answer = guess_column(ANSWERS, columns, [prompt or ""])
    return None if prompt is None or answer is None else (prompt, answer)


def needs_answers(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a prompt, by the usual names, and no answer to it."""
    messages = guess_column(MESSAGES, row)
    if messages is not None:
        return holds_messages(row[messages]) and _messages(row[messages], "row 1")[-1]["role"] != "assistant"
    return guess_column(PROMPTS, row) is not None and find_pair(list(row)) is None


def _parsed(value: Any) -> Any:
    """Returns a list that is written as JSON, as in CSV files; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def holds_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row, by the usual names, holds a conversation that ends in an answer, or a prompt with an answer."""
    messages = guess_column(MESSAGES, row)
    if messages is not None and holds_messages(row[messages]):
        last = _parsed(row[messages])[-1]
        role = last.get("role", last.get("from")) if isinstance(last, Mapping) else None
        return _ROLES.get(str(role), role) == "assistant"
    pair = find_pair(list(row))
    return pair is not None and row[pair[1]] is not None


def holds_messages(value: Any) -> bool:
    """Whether a value is a list of mappings, the array that pandas makes of one, or messages in JSON."""
    if isinstance(value, str):
        value = _parsed(value)
        return _is_list_of_mappings(value) and all(map(_is_message, value))
    return _is_list_of_mappings(value)


def _is_list_of_mappings(value: Any) -> bool:
    is_list = isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim == 1)
    return is_list and len(value) > 0 and isinstance(value[0], Mapping)


def _is_message(value: Any) -> bool:
    """Whether a value has the keys of a message; answers in JSON may be any lists."""
    return (
        isinstance(value, Mapping)
        and not {"role", "from"}.isdisjoint(value)
        and not {"content", "value", "tool_calls"}.isdisjoint(value)
    )


def conversation_pieces(
    rows: Rows, columns: PromptColumns, tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[Piece]]:
    """Yields the pieces of each conversation in the tokenizer's chat template; only the assistant's answers count.

    Raises:
        TrimformerError: there is no chat template, or it does not take these messages.
    """
    template = ChatTemplate(tokenizer)
    for number, row in numbered(rows):
        where = f"row {number}"
        messages = _messages(row[columns.prompt], where)
        yield template.pieces(_with_system(messages, row, columns, where), where, row_tools(row, columns, where))
    template.log()


def answer_pieces(rows: Rows, columns: PromptColumns, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[Piece]]:
    """Yields the pieces of each row: in the chat template if there is one, else the prompt, a line end, the answer.

    Answers may be messages, as TRL writes them: those after the prompt, or a whole conversation.

    Raises:
        TrimformerError: a value is neither a text nor messages, or the chat template does not take the messages.
    """
    assert columns.answer is not None
    template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
    if template is not None:
        logger.info("prompts and answers are put into the tokenizer's chat template; answers count")
    start, end = tokenizer.bos_token or "", tokenizer.eos_token or ""
    for number, row in numbered(rows):
        where = f"row {number}"
        answer = row[columns.answer]
        if holds_messages(answer):
            answers = _messages(answer, where)
            before = prompt_messages(row, columns, where) if answers[0]["role"] == "assistant" else []
            template = template or ChatTemplate(tokenizer)
            yield template.pieces([*before, *answers], where, row_tools(row, columns, where))
            continue
        text = as_text(answer, f"column {quoted(columns.answer)} in {where}")
        messages = prompt_messages(row, columns, where)
        if template is not None:
            messages.append({"role": "assistant", "content": text})
            yield template.pieces(messages, where, row_tools(row, columns, where))
        else:
            yield [(start + without_template(messages), False), (text + end, True)]
    if template is not None:
        template.log()


def prompt_messages(row: Mapping[str, Any], columns: PromptColumns, where: str) -> Messages:
    """Returns the messages before an answer: the system's, and the user's with the text that belongs to it.

    A conversation ends before the assistant's last answer.

    Raises:
        TrimformerError: a value is neither a text nor messages.
    """
    value = row[columns.prompt]
    if holds_messages(value):
        messages = _messages(value, where)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return _with_system(messages, row, columns, where)
    prompt = as_text(value, f"column {quoted(columns.prompt)} in {where}")
    if columns.context is not None and row.get(columns.context) is not None and not is_blank(row[columns.context]):
        extra = as_text(row[columns.context], f"column {quoted(columns.context)} in {where}")
        is_instruction = columns.prompt.strip().lower() == "instruction"
        prompt = f"{prompt}\n\n{extra}" if is_instruction else f"{extra}\n\n{prompt}"
    return _with_system([{"role": "user", "content": prompt}], row, columns, where)


def without_template(messages: Messages) -> str:
    """Returns a prompt for a model without a chat template: texts with an empty line between them, and a line end."""
    text = "\n\n".join(message["content"] for message in messages)
    return text if not text or text[-1].isspace() else text + "\n"


def _with_system(messages: Messages, row: Mapping[str, Any], columns: PromptColumns, where: str) -> Messages:
    """Returns messages with the row's system message before them, unless they begin with one."""
    value = None if columns.system is None else row.get(columns.system)
    if value is None or is_blank(value) or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": as_text(value, f"column {quoted(columns.system)} in {where}")}, *messages]


def row_tools(row: Mapping[str, Any], columns: PromptColumns, where: str) -> list[Any] | None:
    """Returns the tools of a row, which many data sets hold as JSON; None if it has none.

    Raises:
        TrimformerError: the value is neither a list of tools nor one in JSON.
    """
    value = None if columns.tools is None else row.get(columns.tools)
    tools = _parsed(value)
    if tools is None or (isinstance(tools, str | Sequence | np.ndarray) and not len(tools)):
        return None
    if not _is_list_of_mappings(tools):
        raise TrimformerError(f"column {quoted(columns.tools)} in {where} holds no list of tools, nor one in JSON")
    return list(tools if isinstance(value, str) else _without_nulls(tools))  # JSON has the nulls that its author wrote


def _without_nulls(value: Any) -> Any:
    """Returns a value without the keys of mappings that are None: Arrow gives every row the keys of all rows."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple | np.ndarray) else value


def _messages(value: Any, where: str) -> Messages:
    """Returns messages with the keys `role` and `content`, also from ShareGPT's `from` and `value`.

    Raises:
        TrimformerError: the value is no list of messages.
    """
    if not holds_messages(value):
        raise TrimformerError(f"the conversation in {where} is not a list of messages with 'role' and 'content'")
    return [_message(message, where) for message in _parsed(value)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if isinstance(message, Mapping):
        message = dict(_without_nulls(message))
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        role = _ROLES.get(str(role), role)
        if content is None and message.get("tool_calls"):
            content = ""
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, Mapping)]
            parts = [text for text in texts if isinstance(text, str)]
            if len(parts) < len(content):
                raise TrimformerError(f"a message in {where} has parts that are no texts, and only texts are read")
            content = "".join(parts)
        if isinstance(role, str) and isinstance(content, str):
            return {**message, "role": role, "content": content}
    raise TrimformerError(f"a message in {where} has no 'role' and 'content' in text")


def encode_pieces(pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    """Encodes pieces as the one text that they make; a token counts if its last character is in a piece that counts.

    Tokenizers that put a space before a text would put one before every piece. Those without offsets do.
    """
    if not tokenizer.is_fast:
        encoded = [(tokenize(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"], counts)
                   for text, counts in pieces if text]  # fmt: skip
        return [i for ids, _ in encoded for i in ids], [counts for ids, counts in encoded for _ in ids]
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    whole = tokenize(tokenizer, "".join(text for text, _ in pieces), **options)
    ends = np.cumsum([len(text) for text, _ in pieces])  # one character after each piece
    last = np.asarray([max(end - 1, start) for start, end in whole["offset_mapping"]], dtype=np.int64)
    places = np.minimum(np.searchsorted(ends, last, side="right"), len(pieces) - 1)
    return list(whole["input_ids"]), [pieces[place][1] for place in places.tolist()]
