"""Checks token ids against the model's embedding tables and its padding token."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from trimformer.data.processor import tokenizer_of
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import NEXT_TOKENS, Batch, forward
from trimformer.models.masking import frozen


def check_token_ids(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Checks that the model has an embedding for every id in the batches.

    Raises:
        TrimformerError: an id is negative or beyond the embedding table, or a token to predict is beyond the outputs.
    """
    for key, name, table in _embedding_tables(model):
        ids = [batch[key] for batch in batches if key in batch and batch[key].numel()]
        smallest = min((int(t.min()) for t in ids), default=0)
        largest = max((int(t.max()) for t in ids), default=0)
        if largest >= table.num_embeddings:
            raise TrimformerError(
                f"the samples hold {name} id {largest}, but the model has only {table.num_embeddings} {name}s; use the "
                "model's own tokenizer"
            )
        if smallest < 0:
            raise TrimformerError(f"the samples hold {name} id {smallest}; use ids from 0")
    targets = [batch[NEXT_TOKENS] for batch in batches if NEXT_TOKENS in batch]
    if not targets:
        return
    head: Any = model.get_output_embeddings()
    largest = max(int(t.max()) for t in targets)
    if head is not None and largest >= len(head.weight):  # the last token of a row is only predicted
        raise TrimformerError(
            f"the samples hold token id {largest} to predict, but the model predicts only {len(head.weight)} tokens; "
            "use the model's own tokenizer"
        )


@torch.no_grad()
def check_causal(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Checks that a language model does not see the token that it predicts.

    Raises:
        TrimformerError: a token changes the outputs of the positions before it.
    """
    if not batches or NEXT_TOKENS not in batches[0]:
        return
    ids = batches[0]["input_ids"][:1, :8].to(model.device)
    if ids.shape[1] < 2:
        return
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    with frozen(model):
        mask = torch.ones_like(ids)
        before, after = (forward(model, {"input_ids": i, "attention_mask": mask}).logits[:, :-1] for i in (ids, other))
    close = 1e-2 * before.float().std()
    if bool(((before - after).float().abs() > close).any()):
        raise TrimformerError(
            f"{type(model).__name__} sees the tokens that it is to predict; make it causal in its config "
            "(is_decoder, or causal for XLM), or load it with another head"
        )


def check_padding_token(model: PreTrainedModel, processor: Any, batches: Sequence[Batch]) -> None:
    """Checks that a classifier which finds the last token of a text by the padding token has that of the tokenizer.

    Args:
        model: any model; classifiers that pool another token pass.
        processor: the tokenizer that padded the batches, or a processor that contains it.
        batches: samples; without padding, any token will do.

    Raises:
        TrimformerError: the config has another padding token than the tokenizer, or none.
    """
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    if not is_classifier or not batches or not {"input_ids", "attention_mask"} <= batches[0].keys():
        return
    forward = ""
    with suppress(OSError, TypeError):  # a class without source, such as one of a notebook
        forward = inspect.getsource(type(model).forward)
    tokenizer = tokenizer_of(processor)
    padding, found = tokenizer.pad_token_id, model.config.get_text_config().pad_token_id
    if "non_pad_mask" not in forward or padding is None or found == padding:
        return
    # Padding on the left hides no token: the last one is the rightmost that is not this token.
    is_padded = tokenizer.padding_side == "right" and any(not b["attention_mask"].all() for b in batches)
    if is_padded or found is None:
        has = "no pad_token_id" if found is None else f"pad_token_id {found}"
        raise TrimformerError(
            f"the model's config has {has}, but its tokenizer pads with {padding}, so {type(model).__name__} takes the "
            f"wrong token for the last one of a padded text; set pad_token_id to {padding} in config.json"
        )


def token_table(model: PreTrainedModel) -> nn.Embedding | None:
    """Returns the table of token embeddings; None for models of images or sounds."""
    try:
        table = _text_tower(model).get_input_embeddings()
    except NotImplementedError:
        return None
    return table if isinstance(table, nn.Embedding) else None


def _text_tower(model: PreTrainedModel) -> Any:
    """Returns the text tower of a dual encoder, which has the embeddings of tokens, or else the model."""
    return getattr(model, "text_model", model)


def _embedding_tables(model: PreTrainedModel) -> Iterator[tuple[str, str, nn.Embedding]]:
    """Yields the input key, the name of its ids and its embedding table."""
    tokens = token_table(model)
    if tokens is not None:
        yield "input_ids", "token", tokens
    for name, module in _text_tower(model).named_modules():
        if name.endswith("token_type_embeddings") and isinstance(module, nn.Embedding):
            yield "token_type_ids", "token type", module
