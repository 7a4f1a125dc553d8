"""Times prefill and decoding of language models in PyTorch, dense and pruned in turns, in one run.

    python benchmarks/generation.py dense=DIR half=PRUNED_DIR --prompt 512 --rounds 10

Prefill runs a prompt of --prompt tokens; decoding computes one token with that many in the cache. Prints medians, and
the median over the turns of the speed-up over the first model.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel

from trimformer.checkpoints.save_load import load
from trimformer.utils.environment import describe_device, versions

DECODED = 16  # tokens of a timed decoding


@torch.inference_mode()
def seconds_of(model: PreTrainedModel, prompt: torch.Tensor) -> tuple[float, float]:
    """Returns the seconds of a prefill, and of one decoded token after it."""
    cache: Any = DynamicCache(config=model.config)
    start = time.perf_counter()
    logits = model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    prefilled = time.perf_counter()
    for _ in range(DECODED):
        token = logits[:, -1:].argmax(-1)
        logits = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return prefilled - start, (time.perf_counter() - prefilled) / DECODED


def to_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns a table of tokens per second and speed-ups."""
    columns = ["model", "parameters (M)", "prefill, tokens/s", "decode, tokens/s", "prefill", "decode"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for r in records:
        speeds = [f"{r['prefill_speedup']:.2f}x", f"{r['decode_speedup']:.2f}x"]
        lines.append(f"| {r['name']} | {r['parameters'] / 1e6:.1f} | {r['prefill']:.0f} | {r['decode']:.1f} | "
                     f"{' | '.join(speeds)} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Times all models in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=DIR", help="the dense model first")
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("outputs/generation"), help="without suffix")
    options = parser.parse_args()
    named = dict(entry.split("=", 1) for entry in options.models)
    models = {name: load(path)[0].eval() for name, path in named.items()}
    vocabulary = next(iter(models.values())).config.get_text_config().vocab_size
    prompt = torch.randint(vocabulary, (1, options.prompt), generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in tqdm(range(options.rounds + 1), desc="turns", disable=None):
        for name, model in models.items():
            timed = seconds_of(model, prompt)
            if turn:  # the first turn allocates memory
                seconds[name].append(timed)
    times = {name: np.array(values) for name, values in seconds.items()}  # [rounds, 2]
    first = next(iter(times.values()))
    records = []
    for name, values in times.items():
        prefill, decode = np.median(values, axis=0).tolist()
        ratios = np.median(first / values, axis=0).tolist()
        records.append({"name": name, "parameters": sum(p.numel() for p in models[name].parameters()),
                        "prefill": options.prompt / prefill, "decode": 1 / decode, "prefill_speedup": ratios[0],
                        "decode_speedup": ratios[1]})  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    machine = describe_device(torch.device("cpu"))
    result = {"device": machine, **versions(), "prompt": options.prompt, "records": records}
    options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{to_markdown(records)}\n\nOn {machine}.")


if __name__ == "__main__":
    main()
