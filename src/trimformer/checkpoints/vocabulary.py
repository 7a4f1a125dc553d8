"""Removes unused tokens from a tokenizer and a model's embeddings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.checkpoints.token_embeddings import check_outputs, last_reserved_id, named_ids, trim_embeddings, words
from trimformer.checkpoints.token_spellings import needed_to_write, unspelled
from trimformer.checkpoints.tokenizer_trimming import CHUNK_SIZE, check_tokenizer, needed_ids, trim_tokenizer
from trimformer.data.files import read_texts
from trimformer.data.outputs import writes_text
from trimformer.data.processor import is_dual_encoder, tokenize
from trimformer.data.rows import Rows, Selection, numbered
from trimformer.data.sentence_transformers import prompts_of
from trimformer.data.tasks import EncodedTask, Task
from trimformer.errors import TrimformerError, quoted
from trimformer.models.layer_calls import NEXT_TOKENS
from trimformer.options.checks import shorten

USED = "used"  # tokens of the run's own data

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The remaining tokens of a smaller vocabulary.

    Attributes:
        kept_ids: ids in the dense model, in ascending order; a token's index is its new id.
        dense_size: rows of the dense model's embeddings.
        tokenizer: a tokenizer with only these tokens.
    """

    kept_ids: list[int]
    dense_size: int
    tokenizer: PreTrainedTokenizerBase

    @property
    def new_ids(self) -> Ids:
        """[dense_size]: the new id of each old id, -1 for dropped tokens."""
        ids = np.full(self.dense_size, -1)
        ids[self.kept_ids] = np.arange(len(self.kept_ids))
        return ids


def trim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Copies a model and its tokenizer without the tokens that the texts never use.

    On these texts the outputs do not change (masked and causal language models score the remaining tokens only).
    Special tokens, added tokens, single characters and bytes always remain, so that other words can be spelled. Causal
    language models keep the tokens of their chat template and of white space too.

    Args:
        model: a text model, dense or pruned; it is not changed.
        tokenizer: its fast tokenizer; it is not changed.
        texts: representative inputs of the model.

    Raises:
        TrimformerError: there are no texts, or the model or its tokenizer cannot lose tokens.
    """
    if not isinstance(model, PreTrainedModel):
        raise TrimformerError(f"model is {shorten(model)}; give a PreTrainedModel, as trimformer.load returns it")
    check_trimmable(model, tokenizer)
    vocabulary = vocabulary_of_texts(model, tokenizer, _list_texts(texts))
    return trim_embeddings(model, vocabulary.kept_ids), vocabulary.tokenizer


def check_trimmable(model: PreTrainedModel, processor: Any) -> None:
    """Checks that a model and its tokenizer can lose tokens.

    Raises:
        TrimformerError: the model or its tokenizer cannot lose tokens.
    """
    config: Any = model.config
    if model.main_input_name != "input_ids" or is_dual_encoder(config, model.main_input_name):
        raise TrimformerError(f"{type(model).__name__} does not read text only; leave out the vocabulary")
    tokenizer, table = check_tokenizer(processor), words(model)
    if not isinstance(table, nn.Embedding) or table.num_embeddings != getattr(config, "vocab_size", None):
        raise TrimformerError(
            f"the token embeddings of {type(model).__name__} are not one table with one row per token; leave "
            "out the vocabulary"
        )
    largest = max(tokenizer.get_vocab().values())
    if largest >= table.num_embeddings:
        raise TrimformerError(
            f"the tokenizer has token id {largest}, but the model has only {table.num_embeddings} tokens; is the "
            "tokenizer another model's?"
        )


def vocabulary_of_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Set[int] = frozenset()
) -> Vocabulary:
    """Returns the vocabulary that texts need; see `read_vocabulary` and `check_trimmable` for the requirements.

    A language model writes several lines, so the tokens that hold line ends are those of the texts with one or two
    line ends between them.

    Args:
        model: the dense model.
        tokenizer: its tokenizer.
        texts: what the vocabulary is for.
        ids: of further tokens that stay.

    Raises:
        TrimformerError: the model or its tokenizer cannot lose these tokens.
    """

    def encode(reader: PreTrainedTokenizerBase) -> Ids:
        only_ids = {"verbose": False, "return_attention_mask": False, "return_token_type_ids": False}
        chunks = (list(texts[i : i + CHUNK_SIZE]) for i in range(0, len(texts), CHUNK_SIZE))
        return flat_ids(ids for chunk in chunks for ids in tokenize(reader, chunk, **only_ids)["input_ids"])

    if writes_text(model) and not ids:
        texts = [*texts, "\n".join(texts), "\n\n".join(texts)]
    return _find_vocabulary(model, tokenizer, encode, texts, ids)


def vocabulary_of_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sets: Sequence[Rows], task: Task
) -> Vocabulary:
    """Returns the vocabulary that data rows need, as the task encodes them; see also `check_texts`.

    Raises:
        TrimformerError: the model or its tokenizer cannot lose these tokens.
    """

    def encode(reader: PreTrainedTokenizerBase) -> Ids:
        parts = (part for rows in sets for part in _parts(rows))
        return flat_ids(sample["input_ids"] for part in parts for sample in task.encode(part, reader, model.config))

    strings = (text for rows in sets for row in rows for text in _strings(row))
    return _find_vocabulary(model, tokenizer, encode, strings)


def vocabulary_of_blocks(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, blocks: Rows) -> Vocabulary:
    """Returns the vocabulary that a language model's blocks of tokens need; see `check_trimmable` for the requirements.

    Raises:
        TrimformerError: the model or its tokenizer cannot lose these tokens.
    """
    ids = {int(token) for block in blocks for key in ("input_ids", NEXT_TOKENS) for token in block[key] if token >= 0}
    texts = [str(tokenizer.decode(block["input_ids"], clean_up_tokenization_spaces=False)) for block in blocks]
    return vocabulary_of_texts(model, tokenizer, texts, ids)


def read_vocabulary(source: str | Path | Sequence[str]) -> list[str] | None:
    """Reads the texts that define the vocabulary; None stands for the run's own data.

    Args:
        source: "used", a file with one text per line, or the texts.

    Raises:
        TrimformerError: the file cannot be read, or there are no texts.
    """
    if isinstance(source, str | Path):
        if not str(source):
            raise TrimformerError(f"the vocabulary has an empty name; give '{USED}' or a file with one text per line")
        return None if source == USED else read_texts(source)
    return _list_texts(source)


def check_texts(task: Task) -> None:
    """Checks that the data are texts rather than token ids.

    Raises:
        TrimformerError: the data are already encoded.
    """
    if isinstance(task, EncodedTask):
        raise TrimformerError(
            "the data are encoded already, and a smaller vocabulary has other token ids; give texts, or leave out the "
            "vocabulary"
        )


def _find_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[PreTrainedTokenizerBase], Ids],
    texts: Iterable[str],
    others: Set[int] = frozenset(),
) -> Vocabulary:
    """Finds the vocabulary that encoded texts and other tokens need, and checks it on these texts and on the model."""
    used, last, named = encode(tokenizer), last_reserved_id(model), named_ids(model)
    asked = {index for index in tokenizer.get_vocab().values() if index <= last or index in named}
    prompts = prompts_of(model)
    asked |= {index for prompt in prompts for index in tokenize(tokenizer, prompt)["input_ids"]}
    asked |= {*np.unique(used).tolist(), *others}
    if writes_text(model):
        asked |= needed_to_write(tokenizer)
    kept = needed_ids(tokenizer, asked, chain(texts, prompts))
    if kept[: last + 1] != list(range(last + 1)):
        raise TrimformerError(
            f"{type(model).__name__} counts positions from the padding token's id, {last}, and there are no tokens for "
            "all ids before it; leave out the vocabulary"
        )
    rows, smaller = words(model).num_embeddings, trim_tokenizer(tokenizer, kept)
    lost = unspelled(tokenizer, smaller, kept, rows) if writes_text(model) else set()
    if lost:  # an encoder maps these to [UNK]; a language model could never write them
        kept = needed_ids(tokenizer, {*kept, *lost}, ())
        smaller = trim_tokenizer(tokenizer, kept)
    vocabulary = Vocabulary(kept, rows, smaller)
    if not np.array_equal(vocabulary.new_ids[used], encode(vocabulary.tokenizer)):
        raise TrimformerError(
            f"with fewer tokens this {type(tokenizer).__name__} tokenizes the texts differently; leave out the "
            "vocabulary"
        )
    check_outputs(model, kept)
    return vocabulary


def _list_texts(texts: Any) -> list[str]:
    """Lists texts; a string would be read letter by letter, a dictionary or data frame column name by column name.

    Raises:
        TrimformerError: the value is no iterable of strings, or an empty one.
    """
    is_texts = isinstance(texts, Iterable) and not isinstance(texts, str | bytes | Mapping | Set)
    values = list(texts) if is_texts and not hasattr(texts, "columns") else []
    wrong = [value for value in values if not isinstance(value, str)][:1]
    if wrong or not values:
        value = f"a list that holds {quoted(wrong[0])}" if wrong else quoted(texts)
        raise TrimformerError(f"the vocabulary's texts are {value}; give a list of texts, one string at least")
    return values


def _parts(rows: Rows) -> Iterator[Rows]:
    """Splits the rows into chunks, in order, with their row numbers."""
    items = numbered(rows)
    while chunk := list(islice(items, CHUNK_SIZE)):
        part = Selection([row for _, row in chunk], range(len(chunk)))
        part.numbers = [number for number, _ in chunk]
        yield part


def _strings(value: Any) -> Iterator[str]:
    """All values of a row as texts, however they are nested."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | np.ndarray):
        for item in value:
            yield from _strings(item)
    else:
        yield str(value)


def flat_ids(samples: Iterable[Any]) -> Ids:
    """Concatenates all ids; a multiple-choice sample has several lists."""
    lists = (part for ids in samples for part in (ids if len(ids) and isinstance(ids[0], list) else [ids]))
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)
