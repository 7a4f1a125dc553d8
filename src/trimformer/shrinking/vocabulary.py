"""Tokens that texts never use, dropped from the tokenizer and the embeddings together."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.arch.calls import forward
from trimformer.arch.masking import frozen
from trimformer.batches.data import Rows, Selection, numbered
from trimformer.batches.files import read_texts
from trimformer.batches.processor import is_dual, tokenize
from trimformer.batches.tasks import EncodedTask, Task
from trimformer.costs.measure import random_inputs
from trimformer.errors import TrimformerError
from trimformer.shrinking.tokens import check_tokenizer, needed_ids, with_tokens

USED = "used"  # by the run's own data

AT_ONCE = 8192  # rows or texts encoded together: bounds the memory

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens that stay.

    Attributes:
        kept: ids in the dense model, in ascending order; their place is the new id.
        of: rows of the dense model's embeddings.
        tokenizer: the one with these tokens alone.
    """

    kept: list[int]
    of: int
    tokenizer: PreTrainedTokenizerBase

    @property
    def new_ids(self) -> Ids:
        """[of]: the new id of each old one; -1 of what is dropped."""
        ids = np.full(self.of, -1)
        ids[self.kept] = np.arange(len(self.kept))
        return ids


def trim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A copy of a model, and its tokenizer, without the tokens that texts never use.

    On these texts the outputs are what they were (of masked language models those of the tokens that stay). Special and
    added tokens stay, and single characters and bytes, of which other words are spelled.

    Args:
        model: of texts, dense or pruned; left as it was.
        tokenizer: its own, of the library `tokenizers`; left as it was.
        texts: such as the model will read.

    Raises:
        TrimformerError: there are no texts, or the model or its tokenizer cannot lose tokens.
    """
    vocabulary = of_texts(model, tokenizer, list(texts))
    return trimmed(model, vocabulary), vocabulary.tokenizer


def check_trimmable(model: PreTrainedModel, processor: Any) -> None:
    """Raises:
    TrimformerError: the model or its tokenizer cannot lose tokens.
    """
    config: Any = model.config
    if model.main_input_name != "input_ids" or is_dual(config, model.main_input_name):
        raise TrimformerError(f"{type(model).__name__} is no model of texts alone; leave out the vocabulary")
    tokenizer, words = check_tokenizer(processor), model.get_input_embeddings()
    if not isinstance(words, nn.Embedding) or words.num_embeddings != getattr(config, "vocab_size", None):
        raise TrimformerError(
            f"the token embeddings of {type(model).__name__} are no single table, one row a token; leave out the "
            "vocabulary"
        )
    largest = max(tokenizer.get_vocab().values())
    if largest >= words.num_embeddings:
        raise TrimformerError(
            f"the tokenizer has token id {largest}, but the model has only {words.num_embeddings} tokens; is the "
            "tokenizer another model's?"
        )


def of_texts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Vocabulary:
    """What texts need.

    Raises:
        TrimformerError: there are none, or the model or its tokenizer cannot lose tokens.
    """
    check_trimmable(model, tokenizer)
    _check_strings(texts)

    def encode(reader: PreTrainedTokenizerBase) -> Ids:
        starts = range(0, len(texts), AT_ONCE)
        encoded = (tokenize(reader, list(texts[i : i + AT_ONCE]), verbose=False)["input_ids"] for i in starts)
        return flat_ids(ids for chunk in encoded for ids in chunk)

    return _find(model, tokenizer, encode, texts)


def of_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sets: Sequence[Rows], task: Task) -> Vocabulary:
    """What all rows of data need, as the task encodes them.

    Raises:
        TrimformerError: the rows hold no texts, or the model or its tokenizer cannot lose tokens.
    """
    check_trimmable(model, tokenizer)
    check_texts(task)

    def encode(reader: PreTrainedTokenizerBase) -> Ids:
        parts = (part for rows in sets for part in _parts(rows))
        return flat_ids(sample["input_ids"] for part in parts for sample in task.encode(part, reader, model.config))

    strings = (text for rows in sets for row in rows for text in _strings(row))
    return _find(model, tokenizer, encode, strings)


def read_vocabulary(told: str | Path | Sequence[str]) -> list[str] | None:
    """Texts that tell which tokens stay; None: those of the run's data.

    Args:
        told: "used", a file with a text a line, or the texts.

    Raises:
        TrimformerError: the file cannot be read, or there are no texts.
    """
    if isinstance(told, str | Path):
        return None if told == USED else read_texts(told)
    texts = list(told)
    _check_strings(texts)
    return texts


def check_texts(task: Task) -> None:
    """Raises:
    TrimformerError: the data are no texts, but what the old tokenizer made of them.
    """
    if isinstance(task, EncodedTask):
        raise TrimformerError(
            "the data are encoded already, and a smaller vocabulary has other token ids; give texts, or leave out the "
            "vocabulary"
        )


def _check_strings(texts: Sequence[Any]) -> None:
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TrimformerError("the vocabulary is told by texts; give a list of one string at least")


def trimmed(model: PreTrainedModel, vocabulary: Vocabulary) -> PreTrainedModel:
    """A copy of a model, dense or pruned, with the tokens that stay."""
    made = copy.deepcopy(model)
    kept = torch.tensor(vocabulary.kept, device=made.device)
    new = {old: index for index, old in enumerate(vocabulary.kept)}
    sliced = {id(p): nn.Parameter(p[kept].detach().clone(), p.requires_grad) for p in _tables(made)}
    for module in made.modules():
        own: Any = module
        if id(getattr(own, "weight", None)) in sliced:
            if isinstance(own, nn.Embedding):
                own.num_embeddings = len(kept)
                own.padding_idx = None if own.padding_idx is None else new.get(own.padding_idx)
            else:
                own.out_features = len(kept)
        if getattr(own, "vocab_size", None) == vocabulary.of:
            own.vocab_size = len(kept)
        for name, parameter in list(own.named_parameters(recurse=False)):
            if id(parameter) in sliced:  # tied ones stay tied
                setattr(own, name, sliced[id(parameter)])
        _renumber(own, new)
    for config in {id(m.config): m.config for m in made.modules() if isinstance(m, PreTrainedModel)}.values():
        config.vocab_size = len(kept)
        _renumber(config, new)
    if getattr(made, "generation_config", None) is not None:
        _renumber(made.generation_config, new)
    vars(made)["lost_tokens"] = True  # so that it is not saved with the old tokenizer
    return made


def _find(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[PreTrainedTokenizerBase], Ids],
    texts: Iterable[str],
) -> Vocabulary:
    """The vocabulary of what `encode` makes of texts by a tokenizer, checked on these texts and on the model."""
    used, last = encode(tokenizer), _last_before_positions(model)
    before = {index for index in tokenizer.get_vocab().values() if index <= last}
    kept = needed_ids(tokenizer, {*np.unique(used).tolist(), *_named_ids(model, tokenizer)} | before, texts)
    if kept[: last + 1] != list(range(last + 1)):
        raise TrimformerError(
            f"{type(model).__name__} counts positions from the padding token's id, {last}, and there are no tokens for "
            "all ids before it; leave out the vocabulary"
        )
    vocabulary = Vocabulary(kept, _words(model).num_embeddings, with_tokens(tokenizer, kept))
    if not np.array_equal(vocabulary.new_ids[used], encode(vocabulary.tokenizer)):
        raise TrimformerError(
            f"with fewer tokens this {type(tokenizer).__name__} reads the texts otherwise; leave out the vocabulary"
        )
    _check_outputs(model, vocabulary)
    return vocabulary


def _named_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of tokens that the model's configuration names, but for those that it has no such token for."""
    holders = [model.config, getattr(model, "generation_config", None)]
    values = (value for holder in holders if holder is not None for _, value in _id_entries(holder))
    ids = {index for value in values for index in (value if isinstance(value, list) else [value])}
    return ids & set(tokenizer.get_vocab().values())


def _last_before_positions(model: PreTrainedModel) -> int:
    """The padding token's id where positions are counted from it, as RoBERTa does, so that it must stay; else -1."""
    others = (module for module in model.modules() if getattr(module, "weight", None) is not _words(model).weight)
    padding = [getattr(module, "padding_idx", None) for module in others]
    return max((index for index in padding if isinstance(index, int)), default=-1)


def _words(model: PreTrainedModel) -> Any:
    return model.get_input_embeddings()


def _tables(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Parameters with one row a token: embeddings, and the weights and biases of a head that gives scores of tokens."""
    rows, head = _words(model).num_embeddings, model.get_output_embeddings()
    yield _words(model).weight
    if head is None:
        return
    name = next(name for name, module in model.named_modules() if module is head)
    for holder in (head, model.get_submodule(name.rpartition(".")[0])):  # BERT keeps the bias one level up
        yield from (p for p in holder.parameters(recurse=False) if p.shape[0] == rows)


def _id_entries(holder: Any) -> list[tuple[str, Any]]:
    """Attributes that are ids of tokens."""
    return [
        (name, value)
        for name, value in vars(holder).items()
        if name.endswith(("_token_id", "_token_ids")) and isinstance(value, int | list)
    ]


def _renumber(holder: Any, new: Mapping[int, int]) -> None:
    """Changes them in place; an id that has no token becomes None."""
    for name, value in _id_entries(holder):
        ids = [new[old] for old in value if old in new] if isinstance(value, list) else new.get(value)
        setattr(holder, name, ids)


@torch.no_grad()
def _check_outputs(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Raises:
    TrimformerError: the model's outputs depend on the vocabulary in a way that is not known here.
    """
    small, kept = trimmed(model, vocabulary), torch.tensor(vocabulary.kept, device=model.device)
    inputs = {key: value.to(model.device) for key, value in random_inputs(model, 2, 8).items()}
    ids = inputs["input_ids"] % len(kept)
    with frozen(model), frozen(small):
        old = forward(model, {**inputs, "input_ids": kept[ids]})
        new = forward(small, {**inputs, "input_ids": ids})
    for name, value in old.items():
        if isinstance(value, Tensor):
            value = value[..., kept] if value.shape[-1] == vocabulary.of else value
            close = (
                10 * torch.finfo(value.dtype).eps ** 0.5 * value.abs().max()
            )  # matrices of other sizes round otherwise
            if new[name].shape != value.shape or not bool(((new[name] - value).abs() <= close).all()):
                raise TrimformerError(
                    f"{name} of {type(model).__name__} depends on its vocabulary in a way that is not known; leave out "
                    "the vocabulary"
                )


def _parts(rows: Rows) -> Iterator[Rows]:
    """The rows in order, some thousand at a time, with their own numbers."""
    items = numbered(rows)
    while chunk := list(islice(items, AT_ONCE)):
        part = Selection([row for _, row in chunk], range(len(chunk)))
        part.numbers = [number for number, _ in chunk]
        yield part


def _strings(value: Any) -> Iterator[str]:
    """All texts of a row, whatever they are nested in."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | np.ndarray):
        for item in value:
            yield from _strings(item)
    else:
        yield str(value)


def flat_ids(samples: Iterable[Any]) -> Ids:
    """All ids in one row; a sample of multiple choice has several lists."""
    lists = (part for ids in samples for part in (ids if len(ids) and isinstance(ids[0], list) else [ids]))
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)
