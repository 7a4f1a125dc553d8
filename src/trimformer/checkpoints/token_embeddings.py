"""Reduces token embeddings and language-model heads to the remaining tokens."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.costs.random_inputs import random_inputs, special_tokens
from trimformer.data.outputs import writes_text
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import forward
from trimformer.models.masking import frozen


def trim_embeddings(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Copies a model with the embeddings of the kept tokens only and renumbers the token ids in its configs.

    Args:
        model: dense or pruned; it is not changed.
        kept: ids of the tokens, in ascending order; a token's index is its new id.
    """
    made, rows = copy.deepcopy(model), words(model).num_embeddings
    new = {old: index for index, old in enumerate(kept)}
    index = torch.tensor(kept, device=made.device)
    sliced = {id(p): nn.Parameter(p.detach()[index], p.requires_grad) for p in _tables(made)}
    for module in made.modules():
        own: Any = module
        if id(getattr(own, "weight", None)) in sliced:
            if isinstance(own, nn.Embedding):
                own.num_embeddings = len(kept)
                own.padding_idx = None if own.padding_idx is None else new.get(own.padding_idx)
            else:
                own.out_features = len(kept)
        if getattr(own, "vocab_size", None) == rows:
            own.vocab_size = len(kept)
        for name, parameter in list(own.named_parameters(recurse=False)):
            if id(parameter) in sliced:  # tied ones stay tied
                setattr(own, name, sliced[id(parameter)])
        _renumber(own, new)
    for config in {id(m.config): m.config for m in made.modules() if isinstance(m, PreTrainedModel)}.values():
        if getattr(config, "vocab_size", None) == rows:
            config.vocab_size = len(kept)
        _renumber(config, new)
    if getattr(made, "generation_config", None) is not None:
        _renumber(made.generation_config, new)
        _renumber_constraints(made.generation_config, new)
    if writes_text(made):
        made.config.lost_tokens = True  # `trimformer evaluate` cannot compare its perplexity then
    vars(made)["lost_tokens"] = True  # prevents saving with the old tokenizer
    return made


@torch.no_grad()
def check_outputs(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Checks that trimmed embeddings do not change the outputs, on random kept tokens.

    Raises:
        TrimformerError: an output depends on the vocabulary in an unknown way.
    """
    small, index = trim_embeddings(model, kept), torch.tensor(kept, device=model.device)
    inputs = random_inputs(small, 2, 8)
    # Tokens whose id changes, in the middle: some heads need the special tokens at the ends, and no more of them.
    special = special_tokens(small.config)
    moved = [i for i, dense_id in enumerate(kept) if i != dense_id and i not in special]
    if moved:
        inputs["input_ids"][:, 1:-1] = torch.tensor(moved).repeat(12)[:12].view(2, 6)
    with frozen(model), frozen(small):
        old = forward(model, {**inputs, "input_ids": index[inputs["input_ids"]]})
        new = forward(small, inputs)
    for name, value in old.items():
        if isinstance(value, Tensor) and not _agree(value, new[name], index):
            raise TrimformerError(
                f"{name} of {type(model).__name__} depends on its vocabulary in a way that is not known; leave out the "
                "vocabulary"
            )


def _agree(old: Tensor, new: Tensor, kept: Tensor) -> bool:
    """Whether outputs agree up to rounding, which depends on the matrix sizes."""
    if new.shape[-1] == len(kept) < old.shape[-1]:  # scores of tokens
        old = old[..., kept]
    close = (1e-3 + 16 * torch.finfo(old.dtype).eps) * old.abs().max()
    return old.shape == new.shape and not bool(((new - old).abs() > close).any())


def named_ids(model: PreTrainedModel) -> set[int]:
    """Returns the token ids in the model's configs."""
    holders = [model.config, getattr(model, "generation_config", None)]
    values = (value for holder in holders if holder is not None for _, value in _id_entries(holder))
    return {index for value in values for index in (value if isinstance(value, list) else [value])}


def last_reserved_id(model: PreTrainedModel) -> int:
    """Returns the id from which positions are counted (RoBERTa), else -1; ids up to it must stay."""
    others = (module for module in model.modules() if getattr(module, "weight", None) is not words(model).weight)
    padding = [getattr(module, "padding_idx", None) for module in others]
    return max((index for index in padding if isinstance(index, int)), default=-1)


def words(model: PreTrainedModel) -> Any:
    """Returns the token embeddings of a model."""
    return model.get_input_embeddings()


def _tables(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Parameters with one row per token: embeddings, and weights and biases of a language-model head."""
    rows, head = words(model).num_embeddings, model.get_output_embeddings()
    yield words(model).weight
    if head is None:
        return
    name = next(name for name, module in model.named_modules() if module is head)
    for holder in (head, model.get_submodule(name.rpartition(".")[0])):  # BERT keeps the bias one level up
        yield from (p for p in holder.parameters(recurse=False) if p.shape[0] == rows)


def _id_entries(holder: Any) -> list[tuple[str, Any]]:
    """Names and values of the attributes that hold token ids."""
    return [
        (name, value)
        for name, value in vars(holder).items()
        if name.endswith(("_token_id", "_token_ids")) and isinstance(value, int | list)
    ]


def _renumber(holder: Any, new: Mapping[int, int]) -> None:
    """Renumbers token ids in place; the id of a dropped token becomes None, or -1 where the config takes no None."""
    for name, value in _id_entries(holder):
        ids = [new[old] for old in value if old in new] if isinstance(value, list) else new.get(value)
        try:
            setattr(holder, name, ids)
        except StrictDataclassError:
            setattr(holder, name, -1)


def _renumber_constraints(generation: Any, new: Mapping[int, int]) -> None:
    """Renumbers the tokens that generation suppresses or favours, in place; those that are gone need no entry."""
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if getattr(generation, name, None):
            setattr(generation, name, [new[old] for old in getattr(generation, name) if old in new])
    if getattr(generation, "bad_words_ids", None):
        stay = [words for words in generation.bad_words_ids if all(old in new for old in words)]
        generation.bad_words_ids = [[new[old] for old in words] for words in stay] or None
    bias = getattr(generation, "sequence_bias", None)
    if bias:
        pairs = [(tuple(words), value) for words, value in (bias.items() if isinstance(bias, Mapping) else bias)]
        stay_pairs = [(words, value) for words, value in pairs if all(old in new for old in words)]
        generation.sequence_bias = [[[new[old] for old in words], value] for words, value in stay_pairs] or None
