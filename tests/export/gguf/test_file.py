"""What a GGUF file says about a model, read without llama.cpp."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from testing.language import language_model
from tests.conftest import make_model
from tests.export.gguf.models import make, make_one_size, tokenizer
from tests.export.gguf.tokenizers import KINDS, bpe, wrapped
from trimformer.errors import TrimformerError
from trimformer.export.gguf.architecture import choose_architecture
from trimformer.export.gguf.export import export_gguf
from trimformer.export.gguf.tokenizer import describe_tokenizer

gguf = pytest.importorskip("gguf")


def read(model: Any, folder: Path, kind: Any = "f32", name: str = "F32") -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields and the tensors of a model's file."""
    export_gguf(model, tokenizer(), folder, [kind], verified=False)
    reader = gguf.GGUFReader(folder / f"model-{name}.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def shape(tensor: Any) -> list[int]:
    return [int(size) for size in reversed(tensor.shape)]


def test_sizes_are_lists_where_layers_differ_and_numbers_where_they_do_not(tmp_path):
    fields, _ = read(make(layout="free"), tmp_path)
    assert fields["general.architecture"] == "deci"
    assert fields["deci.attention.head_count"] == [2, 4, 4, 2]
    assert fields["deci.attention.head_count_kv"] == [1, 2, 2, 1]
    assert fields["deci.feed_forward_length"] == [96, 64, 64, 64]
    fields, _ = read(make(layout="plain"), tmp_path)
    assert fields["general.architecture"] == "llama"
    assert (fields["llama.attention.head_count"], fields["llama.feed_forward_length"]) == (2, 64)


def test_a_layer_without_heads_has_no_tensor_of_attention_and_no_norm_before_it(tmp_path):
    _, tensors = read(make(layout="no attention"), tmp_path)
    names = sorted(name for name in tensors if name.startswith("blk.1."))
    assert names == [f"blk.1.ffn_{part}.weight" for part in ("down", "gate", "norm", "up")]


def test_a_layer_without_neurons_has_32_of_zeros(tmp_path):
    fields, tensors = read(make(layout="no neurons"), tmp_path)
    assert fields["deci.feed_forward_length"] == [32, 96, 32, 32]
    assert shape(tensors["blk.0.ffn_gate.weight"]) == [32, 64]
    assert not tensors["blk.0.ffn_gate.weight"].data.any()


def test_widths_are_padded_to_multiples_of_32_at_the_end(tmp_path):
    model = make(layout="free")
    _, tensors = read(model, tmp_path)
    down = tensors["blk.1.ffn_down.weight"].data.reshape(64, 64)
    dense = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    assert (down[:, :50] == dense).all()
    assert not down[:, 50:].any()
    assert (
        choose_architecture(model).notes[0].startswith("2 layers have neurons of zeros up to the next multiple of 32")
    )


@pytest.mark.parametrize(("name", "lists"), [("Llama", [1, 4, 2, 4]), ("Qwen3 tied", [1, 4, 2, 4])])
def test_layer_0_keeps_a_head(name, lists, tmp_path):
    fields, _ = read(make(name, "no attention first"), tmp_path)
    assert fields[f"{fields['general.architecture']}.attention.head_count"] == lists


def test_layers_without_heads_and_neurons_are_left_out(tmp_path):
    fields, tensors = read(make(layout="nothing"), tmp_path)
    assert fields["deci.block_count"] == 2
    assert not any(name.startswith("blk.2.") for name in tensors)


def test_queries_and_keys_are_interleaved_by_the_heads_of_their_own_layer(tmp_path):
    model = make("Qwen2", "free")
    _, tensors = read(model, tmp_path)
    attention = model.model.layers[0].self_attn
    for part, heads, linear in (("q", 2, attention.q_proj), ("k", 1, attention.k_proj)):
        for kind in ("weight", "bias"):
            dense = getattr(linear, kind).detach().reshape(heads, 2, 8, -1)
            file = torch.tensor(tensors[f"blk.0.attn_{part}.{kind}"].data).reshape(heads, 8, 2, -1)
            assert torch.equal(file[:, :, 0], dense[:, 0])
            assert torch.equal(file[:, :, 1], dense[:, 1])


def test_rotary_frequencies_of_llama_3_are_written_as_divisors(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    _, tensors = read(make(rope_parameters=rope), tmp_path)
    divisors = tensors["rope_freqs.weight"].data
    assert divisors[0] == pytest.approx(1, abs=1e-5)
    assert divisors[-1] == pytest.approx(8, rel=1e-5)
    with pytest.raises(TrimformerError, match="'qwen2' has no rotary embeddings of type 'llama3'"):
        choose_architecture(make("Qwen2", rope_parameters=rope))


def test_rows_that_are_no_whole_blocks_stay_in_float16(tmp_path):
    _, tensors = read(make(layout="plain", hidden_size=48), tmp_path, "q8_0", "Q8_0")
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items() if name.startswith("blk.0.")}
    assert kinds["blk.0.attn_q.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_norm.weight"] == "F32"


def test_token_types_special_tokens_and_chat_template_are_those_of_the_tokenizer(tmp_path):
    fields, _ = read(make(), tmp_path)
    names, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(names) == len(kinds) == 320
    assert kinds[names.index("[CLS]")] == gguf.TokenType.CONTROL
    assert kinds[-1] == gguf.TokenType.UNUSED  # a row of the embeddings without a token
    assert fields["tokenizer.ggml.eos_token_id"] == names.index("[SEP]")
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == tokenizer().chat_template


def test_all_tokens_that_end_generation_are_written_or_said(tmp_path):
    model = make()
    model.generation_config.eos_token_id = [3, 2, 0, 12]  # the last one is no special token
    written = export_gguf(model, tokenizer(), tmp_path, ["f32"], verified=False)
    reader = gguf.GGUFReader(written.files[0].path)
    roles = [reader.get_field(f"tokenizer.ggml.{role}_token_id").contents() for role in ("eos", "eot", "eom")]
    assert roles == [3, 2, 0]
    (name,) = written.other_ends
    assert name == tokenizer().convert_ids_to_tokens(12)
    assert f"does not stop at {name}" in str(written)


@pytest.mark.parametrize(("generation", "config"), [([3], 40), ([3, 500], 500), (None, [3, -1])])
def test_tokens_at_which_transformers_does_not_stop_are_not_written(tmp_path, generation, config):
    model = make()
    model.generation_config.eos_token_id, model.config.eos_token_id = generation, config
    path = export_gguf(model, tokenizer(), tmp_path, ["f32"], verified=False).files[0].path
    reader = gguf.GGUFReader(path)
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == 3
    assert reader.get_field("tokenizer.ggml.eot_token_id") is None


def test_the_split_into_words_is_recognized():
    for name in ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"):
        assert describe_tokenizer(wrapped(bpe(name)), make(vocab_size=350)).pre == name


def refused_tokenizer(kind: str) -> Any:
    """A tokenizer that GGUF cannot hold."""
    from tokenizers import Regex, pre_tokenizers

    from tests.checkpoints import tiny_tokenizers as tiny

    if kind in ("wordpiece", "with_suffix", "word_level"):
        return tiny.trained(getattr(tiny, kind))
    made = bpe()
    if kind == "split":
        split = pre_tokenizers.Split(Regex(r"\w+|\W+"), behavior="isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    if kind == "prefix":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return wrapped(made, **({"eos_token": None} if kind == "end" else {}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("wordpiece", "WordPiece tokenizers"),
        ("word_level", "WordLevel tokenizers"),
        ("with_suffix", "prefixes or suffixes"),
        ("split", "no known name for its split"),
        ("prefix", "add_prefix_space"),
        ("end", "no end-of-text token"),
    ],
)
def test_a_tokenizer_that_gguf_cannot_hold_is_refused(kind, message):
    model = make(vocab_size=400)
    if kind == "end":
        model.config.eos_token_id = model.generation_config.eos_token_id = None
    with pytest.raises(TrimformerError, match=f"cannot be written to a GGUF file: .*{message}"):
        describe_tokenizer(refused_tokenizer(kind), model)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    with pytest.raises(TrimformerError, match="340 tokens, but the model 320 embeddings"):
        describe_tokenizer(wrapped(KINDS["gpt-2"]()), make())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: make_model(), "GGUF files of BertForSequenceClassification are not supported"),
        (lambda: make("Qwen3 tied", "free", tie_word_embeddings=False), "'openelm' .* has no output matrix; .*plain"),
        (lambda: make("Qwen3 tied", "free", attention_bias=True), "'openelm' .* has no biases; .*plain"),
        (lambda: make("Mistral", sliding_window=64), "sliding window of 64 tokens"),
        (lambda: make(hidden_act="gelu"), "activation silu or swish only, not 'gelu'"),
        (lambda: make_one_size("Gemma", hidden_act="silu", hidden_activation="gelu_new"), "not 'silu'"),
        (lambda: make_one_size("Gemma", attention_bias=True), "'gemma' has no biases of output projections"),
        (lambda: make_one_size("Gemma2", final_logit_softcapping=None), "has no final_logit_softcapping, in place of"),
        (lambda: make_one_size("Gemma2", query_pre_attn_scalar=64), "scales attention by 0.125, llama.cpp by the head"),
        (lambda: make_one_size("Gemma2", num_hidden_layers=46), "with 46 layers, .* scales attention differently"),
        (lambda: make_one_size("Gemma3", use_bidirectional_attention=True), "attends to later tokens"),
        (lambda: make_one_size("Gemma3", attn_logit_softcapping=5.0), "'gemma3' has no soft cap of attention"),
        (lambda: make_one_size("Phi", qk_layernorm=True), "'phi2' has no norms of queries and keys"),
        (lambda: make_one_size("Phi3", partial_rotary_factor=0.5), "over whole heads"),
        (lambda: make_one_size("GPT2", scale_attn_by_inverse_layer_idx=True), "by the index of the layer"),
        (lambda: make_one_size("GPT2", add_cross_attention=True), "no cross-attention"),
        (
            lambda: make_one_size(
                "Gemma3", rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}}
            ),
            "type 'linear' cannot be written; supported are default",
        ),
        (
            lambda: make(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "rotary embeddings of type 'dynamic'",
        ),
    ],
)
def test_a_model_without_a_graph_is_refused(model, message):
    with pytest.raises(TrimformerError, match=message):
        choose_architecture(model())


def test_every_family_that_can_be_written_is_a_class_of_transformers():
    from trimformer.export.gguf.graph_families import GRAPH_FAMILIES

    assert all(hasattr(transformers, name) for name in GRAPH_FAMILIES)
    assert language_model("Llama").config.model_type == "llama"
