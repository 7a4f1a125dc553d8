"""Loads a language model from a GGUF file, with its tokenizer, as a plain model of Transformers."""

import copy
import logging
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from trimformer.checkpoints.checkpoint_checks import check_finite_weights
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models import find_sublayers
from trimformer.utils.input_paths import check_readable
from trimformer.utils.packages import check_packages

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
_SPACE = "\u2581"  # of SentencePiece
_ROPE_FACTORS = "rope_freqs.weight"  # divisors of the rotary frequencies
# Names of llama.cpp for GPT-2's split of texts into words, and for single digits before it.
_GPT_2_SPLITS = ("gpt-2", "gigachat", "jais", "mellum", "mpt", "olmo", "phi-2")
_DIGIT_SPLITS = ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder")
# Settings of a file -> names in configs. Not windows, which Transformers reads where llama.cpp uses them.
_SETTINGS = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}
_LARGEST_GEMMAS = {"gemma2": 46, "gemma3": 62}  # layers of those whose scale of attention is not that of a head
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def is_gguf(name: str | Path) -> bool:
    """Returns whether a name is that of an existing GGUF file."""
    return str(name).lower().endswith(SUFFIX) and Path(name).is_file()


def load_gguf(path: str | Path, dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, Any]:
    """Loads model and tokenizer; packed weights become float32, with the precision that the file has, or `dtype`.

    Raises:
        TrimformerError: the package gguf is missing, the file cannot be read, Transformers leaves a part of it out, or
            the model cannot be pruned.
    """
    check_packages("GGUF files need", ("gguf",), "gguf")
    check_readable(path, "model file")
    folder, name = Path(path).parent, Path(path).name
    with one_sentence(f"the model file '{path}' cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        packed = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")
    vars(packed.config).pop("quantization_config", None)  # of the file; the weights in memory are plain
    file = _open(path)
    _read_settings(file, packed.config)
    _read_rope(file, packed.config, path)
    _read_split(file, tokenizer, path)
    model_class = getattr(transformers, type(packed).__name__)
    model: PreTrainedModel = model_class(packed.config).eval()
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    _read_end_tokens(file, model.generation_config)
    model.config.architectures = [model_class.__name__]
    model.config._name_or_path = str(path)
    _check_whole(file, model, path)
    find_sublayers(model)
    for parameter in model.parameters():  # rotary frequencies, which are buffers, stay in float32
        parameter.data = parameter.data.to(dtype or torch.float32)
    check_finite_weights(model, f"the weights in '{path}'")
    return model, tokenizer


def _open(path: str | Path) -> Any:
    """Opens a GGUF file for its tensors and settings."""
    from gguf import GGUFReader

    return GGUFReader(str(path))


def _setting(file: Any, name: str) -> Any:
    """Returns a setting of the file's architecture; None if it has none of this name."""
    return _contents(file, f"{_contents(file, 'general.architecture')}.{name}")


def _read_settings(file: Any, config: PreTrainedConfig) -> None:
    """Writes settings of the file into the config where Transformers leaves a default of its own."""
    for key, names in _SETTINGS.items():
        value = _setting(file, key)
        name = next((name for name in names if hasattr(config, name)), None)
        if value and name is not None and not _is_close(getattr(config, name), value):  # 0 is no cap
            setattr(config, name, value)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    full, sliding = rope.get("full_attention", rope), rope.get("sliding_attention", {})  # Gemma 3 has two
    for part, key in ((full, "rope.freq_base"), (sliding, "rope.freq_base_swa")):
        value = _setting(file, key)
        if part and value is not None and not _is_close(part.get("rope_theta"), value):
            part["rope_theta"] = value
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:  # such as Mamba, which is refused below
        return
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    rotated = _setting(file, "rope.dimension_count")
    if full and rotated is not None and rotated != int(size * full.get("partial_rotary_factor", 1.0)):
        full["partial_rotary_factor"] = rotated / size
    if hasattr(config, "query_pre_attn_scalar"):  # no file holds it; llama.cpp tells the largest Gemmas by their layers
        is_largest = config.num_hidden_layers == _LARGEST_GEMMAS.get(config.model_type.removesuffix("_text"))
        config.query_pre_attn_scalar = config.hidden_size // heads if is_largest else size


def _is_close(a: Any, b: Any) -> bool:
    """Whether a value of a config is that of a file, which holds it in float32."""
    return a is not None and math.isclose(a, b, rel_tol=1e-6)


def _read_end_tokens(file: Any, config: Any) -> None:
    """Adds the tokens that end a turn or a message to those that end generation."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    more = (_contents(file, f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom"))
    ids = list(dict.fromkeys(end for end in (*ends, *more) if end is not None))
    if len(ids) > len(ends):
        config.eos_token_id = ids


def _check_whole(file: Any, model: PreTrainedModel, path: str | Path) -> None:
    """Checks that Transformers has read all of a file: it skips tensors and settings that it does not know.

    Raises:
        TrimformerError: values of the file are not in the model, or it has its sliding windows elsewhere.
    """
    unread = {_ROPE_FACTORS, *(["output.weight"] if _is_tied(file, model) else [])}
    stored = sum(math.prod(map(int, tensor.shape)) for tensor in file.tensors if tensor.name not in unread)
    held = sum({id(p): p.numel() for p in model.parameters()}.values())
    if stored != held:
        raise TrimformerError(
            f"'{path}' holds {stored:,} values, but the {type(model).__name__} that Transformers makes of it {held:,}; "
            "it leaves out what it does not know, such as biases; give the original checkpoint"
        )
    pattern, kinds = _setting(file, "attention.sliding_window_pattern"), getattr(model.config, "layer_types", None)
    if pattern is None or kinds is None:
        return
    slides = [bool((i + 1) % pattern) for i in range(len(kinds))] if isinstance(pattern, int) else list(pattern)
    if slides[: len(kinds)] != [kind == "sliding_attention" for kind in kinds]:
        raise TrimformerError(
            f"'{path}' has sliding windows in other layers than Transformers gives them; give the original checkpoint"
        )


def _read_split(file: Any, tokenizer: Any, path: str | Path) -> None:
    """Gives a tokenizer the file's split into words where Transformers takes another one.

    That of a byte-level tokenizer is GPT-2's where Transformers does not know the file's. A SentencePiece tokenizer
    puts a space before every text between special tokens in llama.cpp, and only before the first in Transformers.

    Raises:
        TrimformerError: the split is not known here either.
    """
    kind, name, spaces = (_contents(file, f"tokenizer.ggml.{key}") for key in ("model", "pre", "add_space_prefix"))
    backend = tokenizer.backend_tokenizer
    if kind == "t5":
        raise TrimformerError(
            f"'{path}' has a tokenizer of T5's kind, which Transformers reads without line ends; give the original "
            "checkpoint"
        )
    if kind == "llama" and spaces is not False:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
        backend.pre_tokenizer = None
    if kind != "gpt2" or name in _GPT_2_SPLITS or not isinstance(backend.pre_tokenizer, ByteLevel):
        return
    if name in (None, "default"):
        logger.warning(
            "'%s' does not say how it splits texts into words, so it is read like GPT-2; if it is another family, give "
            "the original checkpoint",
            path,
        )
        return
    if name not in _DIGIT_SPLITS:
        raise TrimformerError(
            f"'{path}' splits texts into words by '{name}', which Transformers does not know; give the original "
            "checkpoint"
        )
    steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)


def _contents(file: Any, name: str) -> Any:
    """Returns the contents of a field; None if the file has none of this name."""
    field = file.get_field(name)
    return None if field is None else field.contents()


def _is_tied(file: Any, model: PreTrainedModel) -> bool:
    """Whether the model ties its output matrix to the embeddings and the file holds the same matrix twice (Falcon)."""
    from gguf.quants import dequantize

    tables = {t.name: t for t in file.tensors if t.name in ("output.weight", "token_embd.weight")}
    if not getattr(model.config, "tie_word_embeddings", False) or len(tables) < 2:
        return False
    output, words = (dequantize(t.data, t.tensor_type) for _, t in sorted(tables.items()))
    return output.shape == words.shape and bool(abs(output - words).mean() < 0.1 * abs(words).mean())


def _read_rope(file: Any, config: PreTrainedConfig, path: str | Path) -> None:
    """Writes the file's scaling of rotary frequencies into the config, which Transformers does not read.

    A file holds the divisors of the frequencies and not the settings. Those of Llama 3.1 to 3.3 are tried.

    Raises:
        TrimformerError: no settings that are known here give this scaling.
    """
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    divisors = next((torch.tensor(t.data.copy()) for t in file.tensors if t.name == _ROPE_FACTORS), None)
    kind = _setting(file, "rope.scaling.type")
    refusal = TrimformerError(
        f"'{path}' scales its rotary frequencies in a way that Transformers does not read from it; give the original "
        "checkpoint"
    )
    if kind not in (None, "none") and rope.get("rope_type", "default") == "default":
        raise refusal
    if divisors is None or bool((divisors == 1).all()):
        return
    theta = rope.get("rope_theta", 10_000.0)
    tried = copy.deepcopy(config)
    tried.rope_parameters = {"rope_type": "llama3", "rope_theta": theta, "factor": float(divisors.max())} | _LLAMA_3
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](tried, torch.device("cpu"))
    plain = theta ** -(torch.arange(len(inverse), dtype=torch.float64) / len(inverse))
    if inverse.shape != divisors.shape or not torch.allclose(plain / inverse.double(), divisors.double(), rtol=1e-3):
        raise refusal
    config.rope_parameters = tried.rope_parameters
