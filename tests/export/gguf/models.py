"""Tiny language models of several layouts, and a trained byte-level tokenizer, for the tests of GGUF files."""

from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from testing.language import CHAT_TEMPLATE, language_model
from testing.models import enlarged
from tests.checkpoints.tiny_tokenizers import CORPUS, byte_level
from trimformer.checkpoints.shrink import shrink
from trimformer.models import find_sublayers

# Model -> family and overrides. Heads of 16 channels, two key-value heads with two queries each.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Llama tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Qwen2": ("Qwen2", {}),
    "Qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}),
    "Qwen3 tied": ("Qwen3", {"tie_word_embeddings": True}),
}

# Families that llama.cpp runs with one size for all layers: 4 heads of 16 channels, 96 neurons.
# Windows are shorter than the texts of the comparison.
ONE_SIZE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Gemma": ("Gemma", "GemmaForCausalLM", {"rope_theta": 500.0}),
    "Gemma2": (
        "Gemma2", "Gemma2ForCausalLM",
        {"sliding_window": 8, "query_pre_attn_scalar": 16, "rope_theta": 500.0, "attn_logit_softcapping": 0.2,
         "final_logit_softcapping": 7.0},
    ),
    "Gemma3": (
        "Gemma3Text", "Gemma3ForCausalLM",
        {"sliding_window": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 7, "final_logit_softcapping": 7.0,
         "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500.0},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 200.0}}},
    ),
    "Phi": ("Phi", "PhiForCausalLM", {"partial_rotary_factor": 0.5, "rope_theta": 500.0}),
    "Phi3": ("Phi3", "Phi3ForCausalLM", {"rope_theta": 500.0}),
    "GPT2": ("GPT2", "GPT2LMHeadModel", {"n_inner": 96}),
}  # fmt: skip

# Layout -> (heads, neurons) of each of 4 layers, of 2 heads and 96 neurons.
LAYOUTS = {
    "dense": [(2, 96)] * 4,
    "plain": [(1, 64)] * 4,
    "free": [(1, 96), (2, 50), (2, 33), (1, 64)],
    "no attention": [(2, 96), (0, 64), (1, 96), (0, 40)],
    "no neurons": [(2, 0), (1, 96), (2, 0), (2, 0)],
    "nothing": [(0, 0), (2, 64), (0, 0), (1, 0)],
    "no attention first": [(0, 64), (2, 64), (1, 96), (2, 64)],
    "nothing last": [(1, 64), (2, 96), (2, 96), (0, 0)],
}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with merges, an end-of-text token, and a chat template."""
    made, trainer = byte_level()
    made.train_from_iterator(CORPUS, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]")
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def make(name: str = "Llama", layout: str = "dense", **overrides: Any) -> PreTrainedModel:
    """A random model of which the last units are kept, as many as the layout has."""
    family, own = FAMILIES[name]
    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 4, "head_dim": 16, "intermediate_size": 96,
        "max_position_embeddings": 256, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    model = language_model(family, **{**sizes, **own, **overrides})
    masks = [torch.zeros(s.num_units) for s in find_sublayers(model)]
    for i, (heads, neurons) in enumerate(LAYOUTS[layout]):
        masks[2 * i][2 - heads :] = 1
        masks[2 * i + 1][96 - neurons :] = 1
    shrink(model, masks)
    return model


def make_one_size(name: str, heads: int = 4, neurons: int = 96, **overrides: Any) -> PreTrainedModel:
    """A random model of `ONE_SIZE` of which the last query heads and neurons of each layer are kept."""
    family, head, own = ONE_SIZE[name]
    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "max_position_embeddings": 256, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    sizes |= {"head_dim": 16} if name.startswith("Gemma") else {}
    sizes |= {} if name == "GPT2" else {"num_key_value_heads": 2, "intermediate_size": 96}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**sizes, **own, **overrides})
    model = enlarged(getattr(transformers, head)(config).eval())
    masks = []
    for sublayer in find_sublayers(model):
        share = heads / 4 if sublayer.kind == "attention" else neurons / 96
        removed = round((1 - share) * sublayer.num_units)
        masks.append((torch.arange(sublayer.num_units) >= removed).float())
    shrink(model, masks)
    return model
