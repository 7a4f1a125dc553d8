"""GGUF files in llama.cpp give what PyTorch gives."""

import importlib.util
import json
import sys
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest
import torch

from testing.language import CHAT_TEMPLATE, language_model
from tests.commands import error_line
from tests.conftest import make_model
from tests.export.gguf.models import FAMILIES, LAYOUTS, ONE_SIZE, make, make_one_size, tokenizer
from tests.export.gguf.tokenizers import KINDS, wrapped
from trimformer.checkpoints.save_load import save
from trimformer.checkpoints.vocabulary import trim_vocabulary
from trimformer.cli.main import main
from trimformer.errors import TrimformerError
from trimformer.export.gguf import tensors, verify, watched_process
from trimformer.export.gguf.architecture import check_graph
from trimformer.export.gguf.export import export_gguf
from trimformer.models import find_sublayers
from trimformer.models.removal import keep_queries

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

QUICK = [
    ("Llama", "free"),
    ("Llama tied", "no attention"),
    ("Qwen2", "nothing"),
    ("Qwen3 tied", "no neurons"),
]
PROMPTS = ("abcab cabba", "bacca cab", "aab bba", "c☃ abab")
MORE_PROMPTS = (*PROMPTS, *(f"{a} {b}" for a in ("abc", "cab", "bba", "a") for b in ("aab", "bacca", "c", "☃ b")))


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "TEXTS", verify.TEXTS[:6:2])
    monkeypatch.setattr(verify, "TOKENS", 8)


def exported(model: Any, folder: Path, *kinds: Any, with_tokenizer: Any = None) -> Any:
    return export_gguf(model, with_tokenizer or tokenizer(), folder, kinds or ["f32"])


@pytest.mark.parametrize(("name", "layout"), QUICK)
def test_greedy_tokens_are_those_of_pytorch(name, layout, tmp_path, few_tokens):
    result = exported(make(name, layout), tmp_path)
    assert result.exact.tokens >= 16
    assert result.exact.equal == result.exact.tokens
    assert result.exact.divergence < 1e-9
    assert result.exact.chat


@pytest.mark.parametrize("name", ONE_SIZE)
def test_families_whose_layers_keep_one_size(name, tmp_path, few_tokens):
    for folder, sizes in (("dense", (4, 96)), ("narrow", (4, 64)), ("fewer-heads", (2, 96))):
        (tmp_path / folder).mkdir()
        model = make_one_size(name, *sizes)
        if sizes[0] < 4 and not name.startswith("Gemma"):
            with pytest.raises(TrimformerError, match="whose layers differ in size or lack heads; prune it"):
                exported(model, tmp_path / folder)
            continue
        result = exported(model, tmp_path / folder)
        assert result.exact.tokens >= 16
        assert result.exact.equal == result.exact.tokens
        assert result.exact.divergence < 1e-6  # llama.cpp reads GELU from a table of float16


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Gemma", "add_rope_freq_base"),
        ("Gemma2", "add_rope_freq_base"),
        ("Gemma2", "add_attn_logit_softcapping"),
        ("Gemma2", "add_final_logit_softcapping"),
        ("Gemma3", "add_rope_freq_base"),
        ("Gemma3", "add_rope_freq_base_swa"),
        ("Gemma3", "add_final_logit_softcapping"),
        ("Gemma3", "add_sliding_window"),
        ("Phi", "add_rope_freq_base"),
        ("Phi3", "add_rope_freq_base"),
    ],
)
def test_settings_that_are_not_written_are_noticed(name, key, tmp_path, few_tokens, monkeypatch):
    import gguf

    monkeypatch.setattr(gguf.GGUFWriter, key, lambda *_: None)
    with pytest.raises(TrimformerError, match="predicts something else"):
        exported(make_one_size(name), tmp_path)


def test_one_prompt_is_longer_than_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "TEXTS", ["abcab cabba bacca"])
    monkeypatch.setattr(verify, "TOKENS", 2)
    model = make_one_size("Gemma2", sliding_window=64)
    assert exported(model, tmp_path).exact.tokens == 2 * 2
    monkeypatch.setattr("gguf.GGUFWriter.add_sliding_window", lambda *_: None)
    with pytest.raises(TrimformerError, match="predicts something else"):
        exported(model, tmp_path)


def test_a_tied_phi_has_its_output_matrix(tmp_path, few_tokens):
    result = exported(make_one_size("Phi", tie_word_embeddings=True), tmp_path)
    assert result.exact.equal == result.exact.tokens


def test_embeddings_of_positions_are_not_quantized(tmp_path, few_tokens):
    import gguf

    path = exported(make_one_size("GPT2"), tmp_path, "q8_0").files[0].path
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert (types["position_embd.weight"], types["token_embd.weight"]) == ("F32", "Q8_0")


@pytest.mark.parametrize("name", ["Gemma2", "Gemma3"])
def test_windows_in_an_order_of_their_own(name, tmp_path, few_tokens, monkeypatch):
    windows = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    model = make_one_size(name, num_hidden_layers=4, layer_types=windows)
    result = exported(model, tmp_path)
    assert result.exact.equal == result.exact.tokens
    assert "older versions of llama.cpp" in str(result)
    monkeypatch.setattr("trimformer.export.gguf.architecture._windows", lambda *_: None)
    with pytest.raises(TrimformerError, match="predicts something else"):
        exported(model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gemma3", "Phi3", "GPT2"])
def test_plain_layouts_of_families_whose_layers_keep_one_size(name, tmp_path, few_tokens):
    save(make_one_size(name), tokenizer(), tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n\n".join(["abcab cabba bacca cab aab bba"] * 40))
    command = ["prune", str(tmp_path / "model"), "--data", str(tmp_path / "texts.txt"), "--constraint", "0.4",
               "--layout", "plain", "--num-samples", "8", "--seq-len", "16"]  # fmt: skip
    assert main([*command, "--output", str(tmp_path / "out"), "--export", "gguf-f32"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (pruned,) = (file for file in results["gguf"] if file["name"] == "pruned + f32")
    assert pruned["equal"] == pruned["tokens"] > 0
    assert pruned["dense_divergence"] > 1e-6 > pruned["divergence"]


def test_a_plain_layout_that_could_remove_heads_is_refused_where_the_graph_needs_all():
    check_graph(make_one_size("Phi3"), same_sizes=True)
    with pytest.raises(TrimformerError, match=r"may remove heads of this Phi3ForCausalLM, .*needs all"):
        check_graph(make_one_size("Phi3", head_dim=16), same_sizes=True)


@pytest.mark.parametrize("name", ["Llama", "Qwen3 tied"])
def test_layers_that_lost_query_heads(name, tmp_path, few_tokens):
    model = make(name, "free")
    keep_queries(find_sublayers(model)[2], torch.tensor([[True, False], [False, True]]))
    architecture = exported(model, tmp_path).architecture
    assert [(size.heads, size.kv_heads) for size in architecture.sizes] == [(2, 1), (2, 2), (4, 2), (2, 1)]


@pytest.mark.parametrize("layout", ["plain", "nothing"])
def test_outputs_with_biases_that_the_family_has_not(layout, tmp_path, few_tokens):
    model = make("Qwen2", layout)
    for layer in model.model.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.bias = torch.nn.Parameter(torch.randn(64))
    assert exported(model, tmp_path).architecture.name == "deci"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "qwen2", "llama", "t5"])
def test_models_that_lost_tokens_split_and_write_texts_as_in_pytorch(kind, tmp_path, few_tokens):
    whole = wrapped(KINDS[kind](), chat_template=CHAT_TEMPLATE)
    model = make("Llama tied", "free", vocab_size=len(whole) + 3, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    small, fewer = trim_vocabulary(model, whole, ["abcab cabba", *verify.TEXTS[:2]])
    assert len(fewer) < len(whole)
    result = exported(small, tmp_path, with_tokenizer=fewer)
    assert result.exact.equal == result.exact.tokens
    assert result.exact.divergence < 1e-9
    assert result.exact.chat or kind == "llama"  # as with all tokens


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_sixty_four_greedy_tokens_are_those_that_generate_returns(name, layout, tmp_path):
    model = make(name, layout)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    path = exported(model, tmp_path).files[0].path
    texts = MORE_PROMPTS if layout in ("free", "no attention", "no neurons") else PROMPTS
    prompts = [tokenizer()(text)["input_ids"] for text in texts]
    answer = verify.run_process({"file": str(path), "threads": 1, "context": 128, "prompts": prompts, "tokens": 64,
                                 "top": 1, "texts": [], "chat": None})  # fmt: skip
    for ids, generated in zip(prompts, answer["generated"], strict=True):
        expected = model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)[0, len(ids) :].tolist()
        assert generated["tokens"] == expected[: len(generated["tokens"])]
        # llama.cpp stops at the end of a text, and at the padding token.
        assert len(generated["tokens"]) == 64 or generated["tokens"][-1] in tokenizer().all_special_ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_gives_the_same_tokens(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "TOKENS", 2)
    result = exported(make("Llama", "plain", vocab_size=400), tmp_path, with_tokenizer=wrapped(KINDS[kind]()))
    assert result.tokenizer.split()[0] == {"llama": "llama", "t5": "t5"}.get(kind, "gpt2")


@pytest.mark.slow
def test_rotary_frequencies_of_llama_3(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    for layout in ("dense", "free"):
        folder = tmp_path / layout
        folder.mkdir()
        exported(make(layout=layout, rope_parameters=rope), folder)


@pytest.mark.slow
def test_every_type_runs_and_more_bits_are_nearer_to_pytorch(tmp_path):
    kinds = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
    result = exported(make(layout="free"), tmp_path, *kinds)
    divergences = {kind: file.comparison.divergence for kind, file in zip(kinds, result.files, strict=True)}
    sizes = [file.size for file in result.files]
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3] > sizes[4] > sizes[5] > sizes[6] > sizes[7]
    assert divergences["f32"] < divergences["f16"] < divergences["q8_0"] < divergences["q4_0"]


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch, few_tokens):
    whole = tensors._rearranged
    monkeypatch.setattr(tensors, "_rearranged", lambda tensor, shape, heads: whole(tensor, shape, heads and 1))
    with pytest.raises(TrimformerError, match="predicts something else from 'model-F32"):
        exported(make(layout="free"), tmp_path)


def test_a_tokenizer_of_which_llama_cpp_makes_other_tokens_is_refused(tmp_path, monkeypatch):
    from trimformer.export.gguf import tokenizer as module

    described = module._byte_level
    monkeypatch.setattr(module, "_byte_level", lambda *parts: replace(described(*parts), merges=["a b"]))
    monkeypatch.setattr(verify, "TEXTS", PROMPTS[:1])
    monkeypatch.setattr(verify, "TOKENS", 1)
    with pytest.raises(TrimformerError, match="splits the text 'abcab cabba' into other tokens"):
        exported(make(), tmp_path)


def test_a_file_that_llama_cpp_cannot_load_is_an_error_of_one_sentence(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    request = {"file": str(tmp_path / "bad.gguf"), "threads": 1, "context": 64, "prompts": [], "tokens": 1, "top": 1,
               "texts": [], "chat": None}  # fmt: skip
    with pytest.raises(TrimformerError, match=r"llama\.cpp \(xllamacpp .*\) cannot run 'bad.gguf': ") as error:
        verify.run_process(request)
    assert "\n" not in str(error.value)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save(make(layout="free"), tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def test_the_command_writes_files_and_a_card_and_prints_the_comparison(directory, tmp_path, capsys, few_tokens):
    output = tmp_path / "out"
    command = ["export", str(directory), "--format", "gguf", "--quantize", "F32,q4_0", "--output", str(output)]
    assert main(command) == 0
    assert sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()) == [
        "README.md", "gguf/model-F32.gguf", "gguf/model-Q4_0.gguf",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "architecture deci, 4 layers" in printed
    assert "greedy tokens as PyTorch" in printed
    card = (output / "README.md").read_text(encoding="utf-8")
    assert 'params.model.path = "out/gguf/model-Q4_0.gguf"' in card
    assert "text-generation" in card


def test_a_dense_model_of_another_size_of_heads_keeps_its_own_architecture(tmp_path, few_tokens):
    model = language_model("Llama", vocab_size=320, bos_token_id=2, eos_token_id=3, hidden_size=64)
    assert exported(model, tmp_path).architecture.name == "llama"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quantize", "q4_k_m"], "'q4_k_m' is not one of f32, f16"),
        (["--quantize", ","], "names no type"),
        (["--int8"], "--int8 applies to ONNX and OpenVINO files only"),
        (["--opset", "20"], "--opset applies to ONNX files only"),
        (["--data", "somewhere"], "--data and --task apply to ONNX and OpenVINO files"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message, directory, tmp_path, capsys):
    assert main(["export", str(directory), "--format", "gguf", "--output", str(tmp_path / "out"), *flags]) == 2
    assert message in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_flags_of_gguf_are_refused_with_other_formats(directory, tmp_path, capsys):
    assert main(["export", str(directory), "--quantize", "q8_0", "--output", str(tmp_path / "out")]) == 2
    assert "give them with --format gguf" in error_line(capsys.readouterr().err)


def test_without_llama_cpp_files_are_written_only_where_a_flag_says_so(directory, tmp_path, capsys, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else there(name))
    command = ["export", str(directory), "--format", "gguf", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    message = error_line(capsys.readouterr().err)
    assert "pip install 'trimformer[gguf]'" in message
    assert "--unverified" in message
    assert main([*command, "--unverified"]) == 0
    assert "unverified" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "gguf").iterdir()] == ["model-Q8_0.gguf"]


@pytest.mark.parametrize(("ticks", "expected"), [(repeat(7), None), (count(), (3, ""))], ids=["hangs", "works"])
def test_a_process_that_uses_no_cpu_is_killed_and_another_is_waited_for(monkeypatch, ticks, expected):
    monkeypatch.setattr(watched_process, "_cpu_ticks", lambda pid: next(ticks))
    command = [sys.executable, "-c", "import sys, time; time.sleep(2); sys.exit(3)"]
    monkeypatch.setattr(watched_process, "SECONDS", 0.2)
    assert watched_process.run_watched(command, "") == expected


def test_a_watched_process_reads_its_input_and_tells_its_errors():
    command = [sys.executable, "-c", "print(input(), file=__import__('sys').stderr)"]
    assert watched_process.run_watched(command, "a\n") == (0, "a\n")


def test_prune_writes_the_files_and_compares_them_with_those_of_the_dense_model(tmp_path, capsys, few_tokens):
    save(make(), tokenizer(), tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n\n".join(["abcab cabba bacca cab aab bba"] * 40))
    command = ["prune", str(tmp_path / "model"), "--data", str(tmp_path / "texts.txt"), "--constraint", "0.6",
               "--num-samples", "8", "--seq-len", "16", "--neuron-multiple", "16"]  # fmt: skip
    out = tmp_path / "out"
    assert main([*command, "--output", str(out), "--export", "gguf-F32,gguf-q4_0"]) == 0
    assert {path.name for path in (out / "gguf").iterdir()} == {"model-F32.gguf", "model-Q4_0.gguf"}
    files = {file["name"]: file for file in json.loads((out / "results.json").read_text())["gguf"]}
    assert list(files) == ["dense + f32", "dense + q4_0", "pruned + f32", "pruned + q4_0"]
    for name in ("dense + f32", "pruned + f32"):
        assert files[name]["equal"] == files[name]["tokens"] > 0
    assert files["dense + f32"]["dense_divergence"] < 1e-9 < files["dense + q4_0"]["dense_divergence"]
    assert files["pruned + f32"]["dense_divergence"] > 1e-6 > files["pruned + f32"]["divergence"]
    assert files["pruned + q4_0"]["bytes"] == (out / "gguf" / "model-Q4_0.gguf").stat().st_size
    notes = json.loads((out / "results.json").read_text())["gguf_notes"]
    assert "llama.cpp writes a conversation as Transformers" in notes
    table, page = capsys.readouterr().out, (out / "report.html").read_text()
    assert "in llama.cpp" in table
    assert "In llama.cpp" in page
    for text in (table, page):
        assert f"Of the pruned model's files: {'; '.join(notes)}." in text.replace("&#39;", "'")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: make_model(), "GGUF files of BertForSequenceClassification are not supported"),
        (lambda: language_model("Qwen3"), "prune it with --layout plain"),
        (
            lambda: make_one_size("Gemma3"),
            "no graph for a Gemma3ForCausalLM whose layers differ in size; prune it with",
        ),
    ],
)
def test_a_model_without_a_graph_is_refused_before_its_data_are_read(model, message, tmp_path, capsys):
    save(model(), tokenizer(), tmp_path / "model")
    (tmp_path / "texts.txt").write_bytes(b"")
    command = ["prune", str(tmp_path / "model"), "--data", str(tmp_path / "texts.txt"), "--constraint", "0.5"]
    assert main([*command, "--output", str(tmp_path / "out"), "--export", "gguf-q8_0"]) == 2
    assert message in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
