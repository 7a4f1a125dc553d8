"""What Transformers does not read of a GGUF file is read here, or refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    GenerationConfig,
    MambaConfig,
    Phi3Config,
    StableLmConfig,
    Starcoder2Config,
)

from testing.language import language_model
from tests.export.gguf.models import make_one_size, tokenizer
from tests.export.gguf.tokenizers import KINDS, wrapped
from trimformer import load, save
from trimformer.checkpoints.gguf_input import _read_end_tokens, _read_settings
from trimformer.errors import TrimformerError
from trimformer.export.gguf.export import export_gguf
from trimformer.export.gguf.tokenizer import _SPLITS
from trimformer.export.gguf.verify import run_process

TOKENIZER = wrapped(KINDS["llama"]())
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


class Contents:
    """The fields of a GGUF file."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def get_field(self, name: str) -> Any:
        return SimpleNamespace(contents=lambda: self._fields[name]) if name in self._fields else None


def written(folder: Any, family: str, **overrides: Any) -> Any:
    sizes = {"vocab_size": len(TOKENIZER), "bos_token_id": 1, "eos_token_id": 2, **overrides}
    model = language_model(family, **sizes)
    return model, export_gguf(model, TOKENIZER, folder, ["f32"], verified=False).files[0].path


TEXTS = ("Steps:\n\n1. Mix 250 g", "    12 of 3.14159", "Hello world, it's 2026!", "naïve café\t\tx  y\n", "ab12cd 007")


@pytest.mark.parametrize("kind", list(_SPLITS.values()))
def test_texts_are_split_as_the_file_says(tmp_path: Any, kind: str) -> None:
    tokenizer = wrapped(KINDS[kind]())
    model = language_model("Llama", vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    path = export_gguf(model, tokenizer, tmp_path, ["f32"], verified=False).files[0].path
    _, loaded = load(path)
    assert [loaded(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    loaded.save_pretrained(tmp_path / "saved")
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [reloaded(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_a_split_that_is_not_known_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = wrapped(KINDS["gpt-2"]())
    model = language_model("Llama", vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    monkeypatch.setitem(_SPLITS, ("bytes",), "viking")  # the name in the file
    path = export_gguf(model, tokenizer, tmp_path, ["f32"], verified=False).files[0].path
    with pytest.raises(TrimformerError, match="splits texts into words by 'viking'"):
        load(path)


@pytest.mark.parametrize("option", [{"attn_implementation": "eager"}, {"tokenizer_name": "other"}])
def test_options_of_directories_are_refused(tmp_path: Any, option: dict[str, str]) -> None:
    _, path = written(tmp_path, "Llama")
    with pytest.raises(TrimformerError, match=f"leave out {next(iter(option))}"):
        load(path, **option)


def difference(model: Any, other: Any) -> float:
    ids = torch.arange(3, 83).unsqueeze(0) % model.config.vocab_size
    with torch.no_grad():
        return float((model(ids).logits - other(ids).logits).abs().max())


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_rotary_scaling_of_llama_3_is_found_in_its_divisors(tmp_path: Any, factor: float) -> None:
    rope = {**LLAMA_3, "factor": factor, "original_max_position_embeddings": 8192}
    model, path = written(tmp_path, "Llama", rope_parameters=rope, max_position_embeddings=131_072, head_dim=16)
    loaded, _ = load(path)
    assert difference(model, loaded) < 1e-4
    plain = language_model("Llama", vocab_size=len(TOKENIZER), head_dim=16)
    plain.load_state_dict(model.state_dict())
    assert difference(model, plain) > 1e-3  # without the scaling


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_a_file_without_scaling_is_read_as_it_is(tmp_path: Any, family: str) -> None:
    model, path = written(tmp_path, family)
    assert difference(model, load(path)[0]) < 1e-4


@pytest.mark.parametrize("family", ["Gemma2", "Gemma3"])
def test_settings_that_transformers_does_not_read_are_those_of_the_file(tmp_path: Any, family: str) -> None:
    model = make_one_size(family)  # with soft caps, bases and a scale of attention that are no defaults
    path = export_gguf(model, tokenizer(), tmp_path, ["f32"], verified=False).files[0].path
    assert difference(model, load(path)[0]) < 1e-4


def test_a_scale_of_attention_that_no_file_holds_is_that_of_a_head_but_for_the_largest_gemmas() -> None:
    for layers, expected in ((26, 64), (46, 144)):
        config = Gemma2Config(hidden_size=4608, num_attention_heads=32, head_dim=64, num_hidden_layers=layers)
        _read_settings(Contents({"general.architecture": "gemma2"}), config)
        assert config.query_pre_attn_scalar == expected


@pytest.mark.parametrize(
    ("config", "setting", "name", "value"),
    [
        (Starcoder2Config(), "rope.freq_base", "rope_parameters.rope_theta", 48.0),
        (Starcoder2Config(), "attention.layer_norm_epsilon", "norm_epsilon", 0.5),
        (Gemma2Config(), "final_logit_softcapping", "final_logit_softcapping", 48.0),
    ],
)
def test_settings_of_families_that_are_only_read(config: Any, setting: str, name: str, value: float) -> None:
    _read_settings(Contents({"general.architecture": "x", f"x.{setting}": value}), config)
    found: Any = config
    for part in name.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


@pytest.mark.parametrize("config", [Phi3Config(), MambaConfig()], ids=lambda config: config.model_type)
def test_settings_that_a_family_has_not_are_left_out(config: Any) -> None:
    before = config.to_dict()
    fields = {"general.architecture": "x", "x.attention.sliding_window": 0, "x.final_logit_softcapping": 0.0}
    _read_settings(Contents(fields), config)
    assert config.to_dict() == before


def test_the_part_of_a_head_that_is_rotated_is_that_of_the_file() -> None:
    config = StableLmConfig(hidden_size=128, num_attention_heads=4)
    _read_settings(Contents({"general.architecture": "x", "x.rope.dimension_count": 16}), config)
    assert config.rope_parameters["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize("chat", ["The capital", "  two  spaces", "<|im_start|>user\nThe capital<|im_end|>\n"])
def test_sentencepiece_texts_are_split_as_llama_cpp_splits_them(tmp_path: Any, chat: str) -> None:
    original = wrapped(KINDS["llama"]())
    original.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model = language_model("Llama", vocab_size=len(original), bos_token_id=1, eos_token_id=2)
    path = export_gguf(model, original, tmp_path, ["f32"], verified=False).files[0].path
    job = {"file": str(path), "threads": 1, "context": 64, "prompts": [], "tokens": 1, "top": 1, "chat": None}
    (ids,) = run_process({**job, "texts": [(chat, False)]})["token_ids"]
    assert load(path)[1](chat, add_special_tokens=False)["input_ids"] == ids


def test_tokens_that_end_a_turn_end_generation() -> None:
    config = GenerationConfig(eos_token_id=2)
    _read_end_tokens(Contents({"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 2}), config)
    assert config.eos_token_id == [2, 7]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rope_parameters": {**LLAMA_3, "factor": 8.0, "original_max_position_embeddings": 64},
          "max_position_embeddings": 512}, "scales its rotary frequencies"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
          "max_position_embeddings": 512}, "scales its rotary frequencies"),
        ({"attention_bias": True}, "leaves out what it does not know, such as biases"),
    ],
)  # fmt: skip
def test_what_is_lost_on_the_way_is_refused(tmp_path: Any, overrides: dict[str, Any], message: str) -> None:
    _, path = written(tmp_path, "Llama", **overrides)
    with pytest.raises(TrimformerError, match=message):
        load(path)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, None])
def test_a_file_and_a_directory_are_read_in_the_dtype_asked_for(tmp_path: Any, dtype: Any) -> None:
    model, path = written(tmp_path, "Llama")
    save(model, TOKENIZER, tmp_path / "saved")
    name = str(dtype or torch.float32).removeprefix("torch.")
    (file, _), (directory, _) = (load(source, dtype=dtype) for source in (path, tmp_path / "saved"))
    for loaded in (file, directory):
        assert {p.dtype for p in loaded.parameters()} == {getattr(torch, name)}
        assert loaded.model.rotary_emb.inv_freq.dtype == torch.float32
    weights = directory.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in file.state_dict().items())


def test_an_unknown_dtype_is_refused(tmp_path: Any) -> None:
    _, path = written(tmp_path, "Llama")
    with pytest.raises(TrimformerError, match="dtype 'int8' is unknown"):
        load(path, dtype="int8")
