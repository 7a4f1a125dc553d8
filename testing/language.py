"""Tiny language models and a tokenizer for them, without downloads."""

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from testing.models import enlarged

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
VOCABULARY = 258  # bytes and two special tokens


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte, a start and an end token, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = {"<s>": 0, "</s>": 1, **{letter: i for i, letter in enumerate(alphabet, start=2)}}
    made = Tokenizer(models.BPE(vocab=names, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def language_model(family: str = "Llama", head: str = "ForCausalLM", **overrides: Any) -> PreTrainedModel:
    """A random language model of 3 layers with grouped queries: hidden size 32, 4 heads on 2 key-value heads."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**{**sizes, **overrides})
    return enlarged(getattr(transformers, f"{family}{head}")(config).eval())
