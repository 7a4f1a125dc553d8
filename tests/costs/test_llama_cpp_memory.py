"""Memory in llama.cpp is counted to the byte, and a budget of it is kept."""

from typing import Any

import pytest
import torch

import trimformer
from testing.language import language_model
from tests.conftest import make_model, make_tokenizer
from tests.export.gguf.models import FAMILIES, LAYOUTS, ONE_SIZE, make, make_one_size, tokenizer
from trimformer import GgufOptions, TrimformerError
from trimformer.checkpoints.shrink import shrink
from trimformer.costs.llama_cpp_memory import memory_costs, model_memory
from trimformer.data.tasks import LanguageTask
from trimformer.export.gguf.export import export_gguf
from trimformer.models import find_sublayers
from trimformer.models.removal import keep_queries

gguf = pytest.importorskip("gguf")

TEXTS = [" ".join(["abcab cabba", "bacca cab", "aab bba"] * 8)] * 30
OPTIONS: dict[str, Any] = {
    "num_samples": 8, "task": LanguageTask(name="language", max_length=16), "neuron_multiple": 32,
}  # fmt: skip


def file_bytes(model, folder, quantization, with_tokenizer=None):
    folder.mkdir()
    export = export_gguf(model, with_tokenizer or tokenizer(), folder, [quantization], verified=False)
    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(export.files[0].path).tensors)


@pytest.mark.parametrize("layout", ["dense", "free", "nothing"])
@pytest.mark.parametrize("name", ["Llama", "Llama with biases", "Qwen2 tied", "Qwen3 tied"])
def test_weights_are_the_bytes_of_the_tensors_in_the_file(name, layout, tmp_path):
    model = make(name, layout)
    memory = model_memory(model, "q4_0", 300)
    assert memory.weights == file_bytes(model, tmp_path / "gguf", "q4_0")
    sizes = [max(heads, least) for heads, least in _written(name, layout)]
    assert memory.cache == sum(sizes) * 2 * 16 * 512 * 2  # keys and values of 16 channels, 512 cells, float16


def _written(name, layout):
    """Key-value heads of each written layer, and the least that it is written with."""
    kept = [size for size in LAYOUTS[layout] if any(size) or "biases" in name]
    always = "biases" in name or name.startswith("Qwen3")
    return [(heads, int(i == 0 or always)) for i, (heads, _) in enumerate(kept)]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_model_takes_more_than_its_sublayers_together(name):
    dense = make(name)
    costs = memory_costs(dense, "q8_0", 100)
    assert costs.dense == model_memory(dense, "q8_0", 100).total
    for layout, sizes in LAYOUTS.items():
        counted, found = costs.of([n for size in sizes for n in size]), model_memory(make(name, layout), "q8_0", 100)
        if layout.startswith("nothing") and "biases" not in name:
            assert found.total < counted  # layers that are left out
        else:
            assert found.total == counted, layout


def test_levels_with_fewer_query_heads_are_those_of_the_pruned_model():
    dense = make()
    costs, pruned = memory_costs(dense, "f16", 256), make()
    keep_queries(find_sublayers(pruned)[0], torch.tensor([[True, False], [False, True]]))
    difference = costs.levels[0][2] - costs.narrow[0][0][2]
    assert difference == costs.dense - model_memory(pruned, "f16", 256).total > 0


@pytest.mark.parametrize("quantization", ["f16", "q8_0"])
def test_a_memory_budget_is_kept_to_the_byte(quantization, tmp_path):
    model = make()
    dense = model_memory(model, quantization, 200).total
    allowed = round(0.8 * dense) / 1e6
    result = trimformer.prune(model, tokenizer(), TEXTS, memory_mb=allowed,
                              gguf=GgufOptions(quantization, 200), **OPTIONS)  # fmt: skip
    memory = result.budget.memory
    assert memory.pruned.weights == file_bytes(result.model, tmp_path / "gguf", quantization)
    assert memory.pruned.total <= allowed * 1e6 == memory.asked
    assert result.budget.kept == memory.pruned.total / memory.dense.total
    assert memory.dense.total == dense
    assert memory.pruned.total > 0.6 * dense  # most of it is used
    assert f"memory in llama.cpp (MB, {quantization}, 200 tokens)" in str(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_mb": 0.001}, "a memory of 0.001 MB leaves no unit; the smallest reachable is"),
        ({"memory_mb": 100}, "the dense model takes 0.*MB already"),
        ({"memory_mb": 1, "metric": "mac"}, "needs the metric 'memory'"),
        ({"memory_mb": 1, "latency_ms": 3}, "give either a constraint, a latency in ms or a memory in MB"),
        ({"metric": "memory", "gguf": GgufOptions(context=9999)}, "a context of 9999 tokens is longer"),
        ({"metric": "memory", "method": "kwon2022"}, "needs an allocation that counts the bytes"),
        ({"metric": "memory", "method": "flap"}, "does not count the biases that update 'bias' adds"),
        ({"gguf": GgufOptions("q8_0")}, "quantize and context have no effect"),
    ],
)
def test_budgets_that_cannot_be_are_one_sentence(options, message):
    with pytest.raises(TrimformerError, match=message):
        trimformer.prune(make(), tokenizer(), TEXTS, **OPTIONS, **options)


def test_a_model_that_llama_cpp_does_not_run_is_refused():
    with pytest.raises(TrimformerError, match="GGUF files of BertForSequenceClassification are not supported"):
        trimformer.prune(make_model(), make_tokenizer(), ["a"], metric="memory")
    with pytest.raises(TrimformerError, match="--layout plain"):
        trimformer.prune(language_model("Qwen3"), tokenizer(), TEXTS, metric="memory", **OPTIONS)


def test_shrunk_models_of_one_size_are_counted_as_their_own_architecture(tmp_path):
    model = language_model("Qwen3", vocab_size=320, bos_token_id=2, eos_token_id=3)
    shrink(model, [torch.ones(s.num_units).index_fill_(0, torch.tensor([0]), 0) for s in find_sublayers(model)])
    assert model_memory(model, "q8_0", 10).weights == file_bytes(model, tmp_path / "gguf", "q8_0")


@pytest.mark.parametrize("name", ONE_SIZE)
def test_models_of_one_size_take_what_their_sublayers_take(name):
    dense = make_one_size(name)
    costs = memory_costs(dense, "q8_0", 100)
    assert costs.dense == model_memory(dense, "q8_0", 100).total
    attention, ffn = (s.num_units for s in find_sublayers(dense)[:2])
    layers = len(find_sublayers(dense)) // 2
    narrow = costs.of([attention, ffn * 2 // 3] * layers)
    assert narrow == model_memory(make_one_size(name, neurons=64), "q8_0", 100).total
