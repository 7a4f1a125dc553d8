"""Turns documents, conversations, and prompts with answers into blocks of tokens for language models.

A block is a row with `input_ids`, the number of its document, and, for each position, the next token, or -100 where it
does not count. Documents are joined, each followed by the tokenizer's end token, and cut into blocks of equal length,
so that every token but start tokens is predicted once. Conversations are not joined: each gives blocks of its own, in
which only the answers count. Where the tokenizer begins texts with a start token, every block begins with it, as some
models (Gemma) read nothing well without it.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import IGNORED, sample_indices
from trimformer.data.block_options import FIRST_ROWS, BlockOptions
from trimformer.data.chat_template import Piece
from trimformer.data.conversations import (
    MESSAGES,
    PROMPTS,
    PromptColumns,
    answer_pieces,
    conversation_pieces,
    encode_pieces,
    find_pair,
    holds_messages,
    prompt_messages,
    row_tools,
)
from trimformer.data.generated_answers import answer_prompts
from trimformer.data.model_inputs import check_inputs
from trimformer.data.outputs import find_problem
from trimformer.data.processor import tokenize, tokenizer_of
from trimformer.data.rows import (
    DOCUMENT,
    DOCUMENT_SPAN,
    NamedRows,
    Rows,
    Selection,
    TextLines,
    is_blocks,
    number_alike,
    numbered,
)
from trimformer.data.tasks.base import NO_LIMIT, check_columns, guess_column, missing_column
from trimformer.data.tasks.text import TEXT_COLUMNS
from trimformer.data.tasks.text_values import column_texts
from trimformer.errors import TrimformerError, listed, one_sentence, quoted
from trimformer.models import max_positions
from trimformer.models.layer_calls import NEXT_TOKENS

logger = logging.getLogger(__name__)

BLOCK_LENGTH = 512  # tokens, if nothing else is asked for and the model takes as many

_BATCH = 256  # documents that are tokenized at once
_MOST_CHARACTERS = 2**26


def as_blocks(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    *,
    columns: Sequence[str] | None = None,
    length: int | None = None,
) -> Rows:
    """Turns rows into blocks; rows that are blocks already stay as they are.

    Args:
        rows: texts, conversations (`messages`), prompts with answers, or encoded rows (`input_ids`, and `labels` as
            Transformers' language models take them).
        tokenizer: the model's tokenizer.
        config: the model's configuration, for its longest input.
        columns: the column of texts or messages, or those of prompt and answer; None: guessed from the usual names.
        length: most tokens of a block; None: `BLOCK_LENGTH`, or the model's limit if it is less.

    Raises:
        TrimformerError: a column is missing or cannot be guessed, the rows hold too little text, the model does not
            take blocks of this length, or the tokenizer has no chat template for the conversations.
    """
    if not len(rows) or is_blocks(rows):
        return rows
    length = _block_length(config, length)
    if not columns and "input_ids" in rows[0]:
        check_columns(rows, ["input_ids"])
        if len(rows) > 1 and len({len(row["input_ids"]) for row in rows}) == 1:
            logger.warning(
                "all rows of 'input_ids' have %d tokens, like pieces of longer documents, but each counts as one; if "
                "they are pieces, intervals and promises are too good: give texts",
                len(rows[0]["input_ids"]),
            )
        start = tokenizer.bos_token_id
        encoded = (_encoded_blocks(row, f"row {n}", length, start) for n, row in numbered(rows))
        return NamedRows(chain.from_iterable(encoded), {})
    kind, names = _find_columns(rows, columns)
    check_columns(rows, names)
    if kind == "text":
        if names[0].strip().lower() in PROMPTS and not columns:
            logger.warning(
                "column %s holds prompts without answers, which count as documents; give the answers, or let the model "
                "write them (--generate, generate)",
                quoted(names[0]),
            )
        others = [name for name, value in rows[0].items() if name != names[0] and isinstance(value, str)]
        if others:
            logger.info("documents are the texts of column %s; not read: %s", quoted(names[0]), listed(others))
        return _joined_documents(_documents(rows, names[0]), tokenizer, length)
    found = PromptColumns.find(rows, *names, alone=bool(columns))
    samples = list((conversation_pieces if kind == "messages" else answer_pieces)(rows, found, tokenizer))
    silent = sum(not any(counts for _, counts in pieces) for pieces in samples)
    numbers = number_alike(map(tuple, samples))
    answers = zip(samples, numbers, strict=True)
    blocks = [block for pieces, number in answers for block in _answer_blocks(pieces, tokenizer, length, number)]
    if silent and blocks:
        logger.warning("%d of %d conversations hold no answer that counts; they are left out", silent, len(samples))
    if not blocks:
        raise TrimformerError("the conversations hold no answer; give messages of the role 'assistant'")
    return NamedRows(blocks, {})


def model_rows(
    model: PreTrainedModel,
    processor: Any,
    rows: Rows,
    options: BlockOptions,
    author: PreTrainedModel | None = None,
) -> Rows:
    """Returns the rows that a model's task reads: blocks for language models, else the rows as they are.

    Args:
        model: the model, for its task and its longest input.
        processor: its tokenizer or processor.
        rows: the rows as they were read.
        options: how rows become blocks.
        author: the model that answers prompts; None: `model`.

    Raises:
        TrimformerError: see `as_blocks` and `check_inputs`; or answers are wanted of a model that writes none, or of
            rows without prompts.
    """
    if find_problem(model) != "language":
        if options.generate:
            raise TrimformerError(f"{type(model).__name__} writes no answers; leave out generate")
        return rows
    tokenizer = tokenizer_of(processor)
    if options.generate and len(rows) and not is_blocks(rows):
        prompts = _find_prompts(rows, options.columns)
        length = _block_length(model.config, options.length)
        rows = _drawn(rows, options.most_prompts, options.seed, "the model answers %d of %d prompts, drawn at random")
        asked = [(prompt_messages(row, prompts, f"row {number}"), row_tools(row, prompts, f"row {number}"))
                 for number, row in numbered(rows)]  # fmt: skip
        return answer_prompts(author or model, tokenizer, asked, how=options.generate, length=length, seed=options.seed)
    if len(rows) and not is_blocks(rows) and not options.columns and "input_ids" in rows[0]:
        check_inputs(model, tokenizer, rows, are_encoded=True)
    are_many = options.most_rows is not None and len(rows) > options.most_rows
    if are_many and _holds_conversations(rows, options.columns):  # the columns are looked for again in `as_blocks`
        rows = _drawn(rows, options.most_rows, options.seed, "%d of %d conversations are read, drawn at random")
    return as_blocks(rows, tokenizer, model.config, columns=options.columns, length=options.length)


def _drawn(rows: Rows, most: int | None, seed: int, message: str) -> Rows:
    """Returns the rows, or as many as `most` of them, drawn at random; then logs `message` with both numbers."""
    if most is None or len(rows) <= most:
        return rows
    logger.info(message, most, len(rows))
    return Selection(rows, sorted(sample_indices(len(rows), most, seed)))


def _block_length(config: PreTrainedConfig, length: int | None) -> int:
    """Returns the most tokens of a block.

    Raises:
        TrimformerError: the model takes fewer tokens than asked for, or blocks of one token predict nothing.
    """
    limit = max_positions(config, NO_LIMIT)
    if length is not None and length > limit:
        raise TrimformerError(f"blocks of {length:,} tokens are longer than the model takes; ask for {limit:,} at most")
    if length is not None and length < 2:
        raise TrimformerError(f"blocks of {length} tokens show no context; ask for 2 at least")
    return min(BLOCK_LENGTH, limit) if length is None else length


def were_answered(rows: Rows) -> bool:
    """Returns whether a model wrote the answers of blocks, which then are of no document."""
    return len(rows) > 0 and is_blocks(rows) and DOCUMENT not in rows[0]


def _holds_conversations(rows: Rows, columns: Sequence[str] | None) -> bool:
    """Returns whether rows are conversations, or prompts with answers."""
    return not is_blocks(rows) and "input_ids" not in rows[0] and _find_columns(rows, columns)[0] != "text"


def _find_columns(rows: Rows, columns: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Returns the kind of rows ("text", "messages" or "answers") and the columns to read."""
    row = rows[0]
    for name in columns or ():
        if name not in row:
            raise TrimformerError(f"the data has no column {quoted(name)}; its columns are {', '.join(map(str, row))}")
    if columns:
        if len(columns) == 2:
            return "answers", tuple(columns)
        return ("messages" if holds_messages(row[columns[0]]) else "text"), (columns[0],)
    messages = guess_column(MESSAGES, row)
    if messages is not None and any(holds_messages(row.get(messages)) for row in rows):
        return "messages", (messages,)
    pair = find_pair(list(row))
    if pair is None and guess_column(PROMPTS, row) and guess_column(TEXT_COLUMNS, row) in (None, *PROMPTS):
        pair = find_pair(list({name: None for other in islice(rows, FIRST_ROWS) for name in other}))  # not in row 1
    if pair is not None:
        return "answers", pair
    text = guess_column(TEXT_COLUMNS, row)
    if text is None:
        raise missing_column("text column", row)
    return "text", (text,)


def _find_prompts(rows: Rows, columns: Sequence[str] | None) -> PromptColumns:
    """Returns the columns of the prompts that a model is to answer.

    Raises:
        TrimformerError: there is none, or several are named.
    """
    usual = guess_column((*MESSAGES, *PROMPTS, *TEXT_COLUMNS), rows[0])
    names = columns or [name for name in (usual,) if name]
    if len(names) != 1:
        raise missing_column("column of prompts", rows[0])
    check_columns(rows, names)
    return PromptColumns.find(rows, names[0], alone=bool(columns))


def _documents(rows: Rows, column: str) -> Iterable[str]:
    """Returns the documents: whole text files, or the texts of a column."""
    return rows.documents if isinstance(rows, TextLines) else column_texts(rows, column)


def _joined_documents(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Rows:
    """Joins documents to one stream of tokens and cuts it into blocks of equal length.

    Raises:
        TrimformerError: there is no text, or less than one block.
    """
    texts = _first_characters(text for text in documents if text.strip())
    if not texts:
        raise TrimformerError("the data holds no text; give documents to calibrate on")
    end = tokenizer.eos_token_id
    ids: list[int] = []
    starts: list[int] = []  # of the documents
    for start in range(0, len(texts), _BATCH):
        for encoded in tokenize(tokenizer, texts[start : start + _BATCH], verbose=False)["input_ids"]:
            starts.append(len(ids))
            ids += encoded if end is None or (encoded and encoded[-1] == end) else [*encoded, end]
    if len(ids) <= length:
        raise TrimformerError(
            f"the texts have {len(ids):,} tokens in all, less than a block of {length:,} and the next token; give more "
            "text, or shorter blocks with --seq-len"
        )
    first = None if tokenizer.bos_token_id == end else tokenizer.bos_token_id  # the start token is never predicted
    numbers = number_alike(texts)
    counts = [token != first for token in ids]
    blocks = _cut(ids, counts, length, lambda position: bisect_right(starts, position) - 1, tokenizer.bos_token_id)
    return NamedRows(({**block, DOCUMENT: numbers[block[DOCUMENT]]} for block in blocks), {})


def _first_characters(documents: Iterable[str]) -> list[str]:
    """Returns the first documents, up to `_MOST_CHARACTERS` in all, which is more text than any run draws from."""
    texts: list[str] = []
    left = _MOST_CHARACTERS
    for text in documents:
        texts += [text[:left]] if left else []
        left -= len(text)
        if left < 0:
            logger.warning("only the first %s characters of the text are used", f"{_MOST_CHARACTERS:,}")
            break
    return texts


def _cut(
    ids: Sequence[int],
    counts: Sequence[bool],
    length: int,
    document_at: Callable[[int], int],
    start_token: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Cuts a stream into blocks of equal length; the last token of a block predicts the first of the next.

    Args:
        ids: tokens of the stream.
        counts: whether each token counts as a prediction.
        length: most tokens of a block.
        document_at: returns the number of the document at a position of the stream.
        start_token: if the stream begins with this token, so does every block; it predicts nothing where it is added.
    """
    targets = [token if counted else IGNORED for token, counted in zip(ids, counts, strict=True)]
    positions = len(ids) - 1
    begins = [start_token] if start_token is not None and ids[0] == start_token and positions > length > 2 else []
    length -= len(begins)
    edges = np.linspace(0, positions, max(1, -(-positions // length)) + 1).round().astype(int).tolist()
    for start, stop in pairwise(edges):
        added = begins if ids[start] != start_token else []
        block = {
            "input_ids": [*added, *ids[start:stop]],
            NEXT_TOKENS: [*[IGNORED] * len(added), *targets[start + 1 : stop + 1]],
        }
        first, middle, last = map(document_at, (start, (start + stop) // 2, stop - 1))
        yield {**block, DOCUMENT: middle, DOCUMENT_SPAN: (first, middle, last)}


def _answer_blocks(
    pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase, length: int, number: int
) -> Iterator[dict[str, Any]]:
    """Yields the blocks of a conversation, the document of this number, in which any token counts."""
    ids, counted = encode_pieces(pieces, tokenizer) if pieces else ([], [])
    if len(ids) > 1:
        yield from _counted(_cut(ids, counted, length, lambda _: number, tokenizer.bos_token_id))


def _counted(blocks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the blocks in which any token counts."""
    yield from (block for block in blocks if any(target != IGNORED for target in block[NEXT_TOKENS]))


def _encoded_blocks(row: Mapping[str, Any], where: str, length: int, start: int | None) -> Iterator[dict[str, Any]]:
    """Yields the blocks of a row that another program encoded, without padding; each row is a document.

    Raises:
        TrimformerError: the tokens are not a list of numbers, or labels are not these tokens.
    """
    masks = [name for name in ("assistant_masks", "completion_mask") if name in row]
    with one_sentence(f"'input_ids' of {where} is not a list of token ids"):
        ids, labels, mask, *counted = (
            np.asarray(row.get(key, row["input_ids"])) for key in ("input_ids", "labels", "attention_mask", *masks)
        )
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or any(ids.shape != v.shape for v in (labels, mask, *counted)):
        raise TrimformerError(f"'input_ids' of {where} is not a list of token ids with as many labels")
    for each in counted:  # of TRL and of chat templates: 1 for the tokens of an answer
        labels = np.where(each.astype(bool), labels, IGNORED)
    if ((labels != ids) & (labels != IGNORED)).any():
        raise TrimformerError(
            f"'labels' of {where} differ from its 'input_ids'; give labels as Transformers' language models take them, "
            f"not shifted, and {IGNORED} where a token does not count"
        )
    if "attention_mask" in row:
        ids, labels = ids[mask.astype(bool)], labels[mask.astype(bool)]
    counts, tokens = (labels != IGNORED).tolist(), ids.tolist()
    if len(ids) > 1:
        number = hash(tuple(tokens))  # the same for copies
        yield from _counted(_cut(tokens, counts, length, lambda _: number, start))
