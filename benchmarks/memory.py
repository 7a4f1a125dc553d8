"""Compares the estimated peak memory of pruning language models with the measured one, and predicts larger models.

    python benchmarks/memory.py

Each random Llama is pruned to half of its MACs in a process of its own; the peak of each stage is the largest resident
memory while the stage runs, less what the process had before it had a model. Freed memory goes back to the system at
once. Larger models are never built: their sizes are those of Llama 3 with 1, 8 and 70 billion parameters, in bfloat16.
Needs Linux. Writes JSON and Markdown.
"""

import argparse
import json
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from trimformer.costs.cost_tables import linear_costs
from trimformer.data.outputs import max_batch_tokens
from trimformer.importance.second_moments import group_by_memory
from trimformer.models import find_sublayers
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import find_method
from trimformer.pruner import Pruner
from trimformer.refit.memory_estimate import estimate_memory
from trimformer.utils.environment import describe_device, versions

# hidden size, layers, query heads, key-value heads, FFN width, vocabulary
MEASURED = [(256, 8, 4, 2, 1024, 8192), (512, 8, 8, 4, 1536, 16384)]
PREDICTED = {
    "1 B": (2048, 16, 32, 8, 8192, 128256),
    "8 B": (4096, 32, 32, 8, 14336, 128256),
    "70 B": (8192, 80, 64, 8, 28672, 128256),
}
STAGES = {"calibrate": "calibrate", "curves": "curves", "update": "refit"}  # of the clock: name in `MemoryEstimate`


def config_of(hidden: int, layers: int, heads: int, groups: int, width: int, vocabulary: int) -> LlamaConfig:
    """Returns the config of a Llama with these sizes and tied embeddings."""
    return LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=groups, intermediate_size=width, vocab_size=vocabulary,
                       tie_word_embeddings=True)  # fmt: skip


def resident(key: str) -> int:
    """Returns VmRSS (now) or VmHWM (peak) of this process, in bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def measure(sizes: tuple[int, ...], tokens: int, length: int, max_memory: float, results: Any) -> None:
    """Prunes a random model and puts the peak of each stage, and the estimates, into the queue."""
    before, peaks = resident("VmRSS"), dict[str, int]()

    @contextmanager
    def clock(stage: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        yield
        name = STAGES.get(stage)
        if name is not None:
            peaks[name] = max(peaks.get(name, 0), resident("VmHWM") - before)

    torch.manual_seed(0)
    model = LlamaForCausalLM(config_of(*sizes)).eval()
    batch_tokens = max_batch_tokens(model) // length * length
    ids = torch.randint(sizes[-1], (tokens // length, length))
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part), "next_tokens": part.roll(-1, 1), "index": index}
        for part, index in zip(ids.split(batch_tokens // length), torch.arange(len(ids)).split(batch_tokens // length),
                               strict=True)
    ]  # fmt: skip
    run = ExecutionOptions(max_memory=max_memory, clock=clock)
    pruner = Pruner(model, batches, find_method("obs"), run=run)
    pruner(linear_costs(find_sublayers(model), "mac", length), 0.5)
    estimate = estimate_memory(model, tokens, batch_tokens, max_memory=max_memory, outputs=pruner.output_bytes)
    results.put({"parameters": model.num_parameters(), "max_memory": max_memory, "measured": peaks,
                 "estimated": asdict(estimate)})  # fmt: skip


def predict(name: str, tokens: int, max_memory: float) -> dict[str, Any]:
    """Returns the estimates for a model that is never built."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config_of(*PREDICTED[name])).bfloat16()
    groups = group_by_memory(find_sublayers(model), max_memory)
    estimate = estimate_memory(model, tokens, max_batch_tokens(model), max_memory=max_memory)
    return {"name": name, "parameters": model.num_parameters(), "max_memory": max_memory, "groups": len(groups),
            "estimated": asdict(estimate)}  # fmt: skip


def to_markdown(measured: list[dict[str, Any]], predicted: list[dict[str, Any]]) -> str:
    """Returns a table of measured and estimated peaks, and one of predictions."""
    lines = ["| parameters | max memory | calibrate | curves | refit |", "|---|---|---|---|---|"]
    for r in measured:
        cells = [
            f"{r['measured'][s] / 1e9:.2f} / {r['estimated'][s] / 1e9:.2f}" for s in ("calibrate", "curves", "refit")
        ]
        lines.append(f"| {r['parameters'] / 1e6:.0f} M | {_size(r['max_memory'])} | {' | '.join(cells)} |")
    lines += ["", "| model | max memory | groups | calibrate | curves | refit |", "|---|---|---|---|---|---|"]
    for r in predicted:
        cells = [f"{r['estimated'][s] / 1e9:.0f}" for s in ("calibrate", "curves", "refit")]
        lines.append(f"| {r['name']} | {_size(r['max_memory'])} | {r['groups']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _size(value: float) -> str:
    return "no bound" if value == float("inf") else f"{value / 1e9:g} GB"


def main() -> None:
    """Measures, predicts and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="calibration tokens of the measured models")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--predict-tokens", type=int, default=131072, help="calibration tokens of the larger models")
    parser.add_argument("--output", type=Path, default=Path("outputs/memory"), help="without suffix")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # of the measured processes: no larger block is kept when freed
    context, measured = multiprocessing.get_context("spawn"), list[dict[str, Any]]()
    cases = [(sizes, bound) for sizes in MEASURED for bound in (float("inf"), 0.05e9)]
    for sizes, bound in tqdm(cases, desc="measure", disable=None):
        results = context.Queue()
        process = context.Process(target=measure, args=(sizes, options.tokens, options.length, bound, results))
        process.start()
        measured.append(results.get())
        process.join()
    bounds = (float("inf"), 40e9, 8e9)
    predicted = [predict(name, options.predict_tokens, bound) for name in PREDICTED for bound in bounds]
    result = {"device": describe_device(torch.device("cpu")), **versions(), "measured": measured,
              "predicted": predicted}  # fmt: skip
    options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(to_markdown(measured, predicted) + "\n")
    print(to_markdown(measured, predicted))


if __name__ == "__main__":
    main()
