"""Latency tables and budgets in llama.cpp, on a machine whose times are known."""

import importlib.util
import json
import logging

import numpy as np
import pytest
import torch

import trimformer
from testing.language import language_model
from tests.commands import error_line, write_jsonl
from tests.costs.fake_llama_cpp import FIXED, FakeFiles, sublayers_ms
from tests.export.gguf.models import make, make_one_size, tokenizer
from trimformer import GgufOptions, LatencyOptions, TrimformerError
from trimformer.checkpoints.save_load import save
from trimformer.cli.main import main
from trimformer.cli.prune import MISSED
from trimformer.costs import measure_llama_cpp
from trimformer.costs.latency_bench import resized
from trimformer.costs.measure_llama_cpp import measure_llama_cpp_table, timed_layers
from trimformer.costs.random_inputs import Prompt
from trimformer.costs.token_speed import GENERATED
from trimformer.costs.workloads import LlamaCppRun
from trimformer.data.tasks import LanguageTask
from trimformer.export.gguf.architecture import choose_architecture
from trimformer.models import find_sublayers
from trimformer.models.removal import keep_queries

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

TEXTS = [" ".join(["abcab cabba", "bacca cab", "aab bba"] * 8)] * 30
DECODE = LlamaCppRun("f16", "decode", 16)


def wide(family="Llama", layers=5, **overrides):
    """A random model of 4 key-value heads and 256 neurons a layer."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 256, "head_dim": 16}
    sizes |= {"vocab_size": 320, "bos_token_id": 2, "eos_token_id": 3, "num_hidden_layers": layers}
    return language_model(family, **{**sizes, **overrides})


def true_ms(model):
    """The milliseconds of the file of a model."""
    sizes = choose_architecture(model).sizes
    return FIXED + sublayers_ms([size.kv_heads for size in sizes], [size.neurons for size in sizes])


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_table_adds_up_to_the_time_of_every_model(monkeypatch, phase, family):
    files, model = FakeFiles(monkeypatch), wide(family, tie_word_embeddings=True)
    table = measure_llama_cpp_table(model, LlamaCppRun("q8_0", phase, 16))
    costs, rng = table.costs(model), np.random.default_rng(0)
    for _ in range(20):
        units = [int(rng.integers(s.num_units + 1)) for s in find_sublayers(model)]
        units[0] = max(units[0], 1)  # the first layer always has a head
        units[1::2] = [max(n, 1) for n in units[1::2]]  # layers without units would be left out
        share = true_ms(resized(model, units)) / true_ms(model)
        assert costs.of(units) / costs.dense == pytest.approx(share, rel=1e-6)
    # In the middle of the turns that become slower and slower; a prompt takes ten times as long as a token.
    assert costs.dense == pytest.approx(true_ms(model) * {"prefill": 10, "decode": 1}[phase], rel=0.6)
    assert (table.setting["quantize"], table.setting["phase"], table.setting["seq_len"]) == ("q8_0", phase, 16)
    first, later = {"prefill": ((16, 1, False),) * 2, "decode": ((16, GENERATED, False), (16, GENERATED, True))}[phase]
    assert set(files.requests) == {first, later}


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        (
            "Qwen3",
            ([4, 160], [2, 256], [3, 96], [1, 32]),
        ),  # not tied: llama.cpp has no graph for layers of several sizes
        ("Gemma", ([4, 160], [2, 256], [3, 96], [1, 32])),
    ],
)
def test_a_model_whose_layers_keep_one_size_has_a_table_too(monkeypatch, family, sizes):
    FakeFiles(monkeypatch)
    model = wide(family, hidden_size=128)
    costs = measure_llama_cpp_table(model, DECODE).costs(model)
    for size in sizes:
        share = true_ms(resized(model, size * 5)) / true_ms(model)
        assert costs.of(size * 5) / costs.dense == pytest.approx(share, rel=1e-6)


def test_of_a_large_model_fewer_layers_are_timed_and_the_table_is_the_same(monkeypatch):
    FakeFiles(monkeypatch)
    model = wide(layers=8)
    monkeypatch.setattr(measure_llama_cpp, "free_memory", lambda _: 1.0)
    assert timed_layers(model, DECODE) == 4
    costs = measure_llama_cpp_table(model, DECODE).costs(model)
    monkeypatch.setattr(measure_llama_cpp, "free_memory", lambda _: 1e12)
    assert timed_layers(model, DECODE) == 8
    everything = measure_llama_cpp_table(model, DECODE).costs(model)
    for a, b in zip(costs.levels, everything.levels, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_layers_of_several_shapes_have_no_table(monkeypatch):
    FakeFiles(monkeypatch)
    model = wide()
    keep_queries(find_sublayers(model)[0], torch.tensor([[True, False]] * 4))
    with pytest.raises(TrimformerError, match="layers of several sizes"):
        measure_llama_cpp_table(model, DECODE)


def prune(model, phase="decode", **options):
    options = {"num_samples": 8, "task": LanguageTask(name="language", max_length=16), **options}
    return trimformer.prune(model, tokenizer(), TEXTS, latency=LatencyOptions(backend="llama.cpp"),
                            gguf=GgufOptions("q4_0", 24, phase), **options)  # fmt: skip


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("layout", ["free", "plain"])
def test_milliseconds_are_kept_to_in_llama_cpp(monkeypatch, phase, layout):
    FakeFiles(monkeypatch)
    model = wide()
    allowed = 0.7 * true_ms(model) * {"prefill": 10, "decode": 1}[phase]
    result = prune(model, phase, latency_ms=allowed, layout=layout)
    budget, latency = result.budget, result.latency
    assert latency.ratio.median == pytest.approx(true_ms(result.model) / true_ms(model))
    assert budget.reference_ms * latency.ratio.median <= allowed
    assert 0 <= budget.left_over < 0.1
    assert not budget.missed
    assert budget.kept == pytest.approx(latency.ratio.median, rel=0.05)
    assert (latency.backend, latency.phase, latency.quantize, latency.seq_len) == ("llama.cpp", phase, "q4_0", 24)
    assert f"latency (ms, {phase}, q4_0, 24 tokens)" in str(result)


def test_a_share_of_the_latency_in_llama_cpp(monkeypatch):
    FakeFiles(monkeypatch)
    result = prune(wide(), constraint=0.6, metric="latency")
    assert 0.5 < result.latency.ratio.median <= 0.6
    assert not result.budget.corrected


def test_a_first_selection_that_is_too_slow_is_corrected(monkeypatch):
    model = wide()

    def law(kv_heads, neurons):
        """Widths that no timed model has take longer than the table tells."""
        is_timed = {*neurons} <= {32, 128, 256} and 3 not in kv_heads
        return sublayers_ms(kv_heads, neurons) * (1.0 if is_timed else 1.1)

    FakeFiles(monkeypatch, law)
    result = prune(model, constraint=0.7, metric="latency")
    assert result.budget.corrected
    assert not result.budget.missed
    assert result.latency.ratio.median <= 0.7


def test_the_report_shows_latency_in_llama_cpp_for_every_metric(monkeypatch):
    FakeFiles(monkeypatch)
    result = prune(wide(), constraint=0.6)
    assert result.budget.metric == "mac"
    assert result.latency.ratio.median == pytest.approx(true_ms(result.model) / true_ms(wide()))
    mixed = prune(wide(), constraint=0.9, metric="memory")
    assert (mixed.budget.memory.context, mixed.latency.seq_len) == (24, 24)


def test_a_sweep_keeps_every_latency(monkeypatch):
    FakeFiles(monkeypatch)
    family = trimformer.sweep(wide(), tokenizer(), TEXTS, [0.8, 0.6], metric="latency", num_samples=8,
                              task=LanguageTask(name="language", max_length=16),
                              latency=LatencyOptions(backend="llama.cpp"), gguf=GgufOptions("q8_0", 24))  # fmt: skip
    ratios = [result.latency.ratio.median for result in family.results]
    assert 0.6 >= ratios[1] > 0.5
    assert 0.8 >= ratios[0] > 0.7


def test_models_with_fewer_tokens_are_timed_on_a_prompt_that_all_have():
    prompt = Prompt(100)
    prompt.fit(language_model(vocab_size=320))
    assert max(prompt.ids) > 200
    for rows in (200, 320):
        prompt.fit(language_model(vocab_size=rows))
        assert len(prompt.ids) == 100
        assert max(prompt.ids) < 200


def test_by_default_a_token_after_512_or_all_the_model_takes_is_decoded():
    assert LlamaCppRun.of(wide(), GgufOptions()) == LlamaCppRun("f16", "decode", 128 - GENERATED)
    assert LlamaCppRun.of(wide(max_position_embeddings=2048), GgufOptions("q8_0")).tokens == 512
    assert LlamaCppRun.of(wide(), GgufOptions(context=127, phase="prefill")).tokens == 127


# The command line.

FLAGS = ["--backend", "llama.cpp", "--quantize", "q4_0", "--context", "24", "--num-samples", "8", "--max-length", "16"]


@pytest.fixture
def saved(tmp_path):
    save(wide(), tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def command(model, data, out, *words):
    return main(["prune", str(model), "--data", str(data), "--output", str(out), *map(str, words)])


def test_a_latency_that_is_missed_says_by_how_much(monkeypatch, saved, tmp_path, capsys, caplog):
    data = write_jsonl(tmp_path / "data.jsonl", [{"text": text} for text in TEXTS])
    # Nothing is gained by pruning, except in the model without any unit.
    FakeFiles(monkeypatch, lambda kv_heads, neurons: 0.0 if len(kv_heads) == 1 else 60.0 + 1e-3 * sum(neurons))
    with caplog.at_level(logging.WARNING, "trimformer"):
        assert command(saved, data, tmp_path / "out", *FLAGS, "--latency-ms", 50) == MISSED
    budget = json.loads((tmp_path / "out" / "results.json").read_text())["budget"]
    assert budget["missed"]
    assert budget["left_over"] < -0.1
    captured = capsys.readouterr()
    assert "left over" in captured.out
    assert "the latency budget is missed" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--phase", "decode"], "the phase 'decode' is one of llama.cpp, not of the backend 'eager'"),
        (["--backend", "onnx", "--phase", "prefill"], "give --backend llama.cpp, or leave out --phase"),
        (["--quantize", "q8_0"], "quantize and context have no effect on a budget of the metric 'mac'"),
        ([*FLAGS, "--bs", "8"], "timed on one text at a time, not 8; leave out --bs"),
        ([*FLAGS, "--lut", "tables"], "tables of llama.cpp are always measured before pruning; leave out --lut"),
        ([*FLAGS, "--context", "100"], "a context of 100 tokens and 32 generated ones are more than the model takes"),
        ([*FLAGS, "--phase", "prefill", "--context", "128"], "and 1 generated ones are more than the model takes, 128"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused_before_the_data_are_read(
    saved, tmp_path, capsys, words, message
):
    (tmp_path / "data.jsonl").write_text("{no json")
    assert command(saved, tmp_path / "data.jsonl", tmp_path / "out", "--constraint", "0.5", *words) == 2
    assert message in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (lambda: wide("Qwen3"), [], "has no output matrix; prune it with --layout plain"),
        (lambda: wide("Gemma"), [], "whose layers differ in size; prune it with --layout plain"),
        (
            lambda: make_one_size("Phi3"),
            ["--layout", "plain"],
            "latency budgets in llama.cpp are not for Phi3ForCausalLM",
        ),
        (lambda: wide("Granite"), [], "GGUF files of GraniteForCausalLM are not supported"),
    ],
)
def test_models_that_llama_cpp_cannot_run_are_refused_before_the_data_are_read(tmp_path, capsys, model, words, message):
    save(model(), tokenizer(), tmp_path / "model")
    (tmp_path / "data.jsonl").write_text("{no json")
    words = [*FLAGS, "--latency-ms", "3", *words]
    assert command(tmp_path / "model", tmp_path / "data.jsonl", tmp_path / "out", *words) == 2
    assert message in error_line(capsys.readouterr().err)


def test_without_llama_cpp_the_package_to_install_is_named(monkeypatch, saved, tmp_path, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "xllamacpp" else found(name, *a))
    (tmp_path / "data.jsonl").write_text("{no json")
    assert command(saved, tmp_path / "data.jsonl", tmp_path / "out", *FLAGS, "--latency-ms", "3") == 2
    assert "need xllamacpp: pip install 'trimformer[gguf]'" in error_line(capsys.readouterr().err)


def test_tables_of_llama_cpp_are_not_written_to_files(saved, tmp_path, capsys):
    words = ["--bs", "1", "--seq-len", "8", "--backend", "llama.cpp", "--output", str(tmp_path / "lut")]
    assert main(["lut", str(saved), *words]) == 2
    assert "tables of llama.cpp are not written to files" in error_line(capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_command_keeps_to_a_share_of_the_time_in_the_real_llama_cpp(tmp_path, capsys, phase):
    save(make(), tokenizer(), tmp_path / "model")
    data = write_jsonl(tmp_path / "data.jsonl", [{"text": text} for text in TEXTS])
    words = [*FLAGS, "--phase", phase, "--metric", "latency", "--constraint", "0.9"]
    assert command(tmp_path / "model", data, tmp_path / "out", *words) in (0, MISSED)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    latency, budget = written["latency"], written["budget"]
    assert (latency["backend"], latency["phase"], latency["quantize"]) == ("llama.cpp", phase, "q4_0")
    assert latency["ratio"]["count"] >= 7
    assert all(0 < latency[key]["low"] <= latency[key]["median"] for key in ("dense_ms", "pruned_ms", "ratio"))
    assert budget["estimated_ms"] > 0
    assert budget["left_over"] is not None
    assert f"latency (ms, {phase}, q4_0, 24 tokens)" in capsys.readouterr().out
