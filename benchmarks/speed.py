"""Measures the cost of pruning in forward passes of the dense model, and compares it with the paper's recipe.

    python benchmarks/speed.py                                            # MiniLM-L6 and BERT-base on this machine
    python benchmarks/speed.py --models BERT-base --samples 2048 --no-literal
    python benchmarks/speed.py --scaling                                  # time against samples, length, width, depth
    torchrun --nproc_per_node 2 benchmarks/speed.py --no-literal          # several processes

The literal recipe is the paper's as published: gradients of each batch's mean loss, then six forward passes for each
layer (for each of its two sublayers: the teacher's output, the student's input, the student's residual), masks without
shrinking, LSMR. It is implemented here, on the same modules and data, in the same process. Its normal equations come
from second moments, which is cheaper. Models have random weights, because time does not depend on them.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from trimformer.allocation.allocations import select_masks
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost_tables import linear_costs
from trimformer.costs.pass_cost import forward_seconds
from trimformer.data.batches import token_mask
from trimformer.importance.fisher import collect_mask_grads, compute_fisher_info
from trimformer.importance.obs import importance_curve
from trimformer.models import Sublayer, find_sublayers
from trimformer.models.layer_calls import Batch, model_inputs
from trimformer.models.masking import MaskUnits, frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import METHODS, polishes
from trimformer.paper import hijack_input
from trimformer.pruner import Pruner
from trimformer.refit.regression_moments import MomentSums
from trimformer.refit.rescale import rescale_system
from trimformer.utils import distributed
from trimformer.utils.environment import describe_device, resolve_device, versions
from trimformer.utils.linalg import lsmr_cupy_solver
from trimformer.utils.memory import peak_memory

SIZES: dict[str, dict[str, int]] = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {},
    "BERT-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}

# Name of the axis -> (what is varied, its values).
SCALING: dict[str, list[dict[str, int]]] = {
    "samples": [{"samples": n} for n in (128, 256, 512, 1024)],
    "length": [{"length": n} for n in (16, 32, 64, 128)],
    "width": [
        {"hidden_size": n, "num_attention_heads": n // 32, "intermediate_size": 4 * n} for n in (192, 384, 576, 768)
    ],
    "depth": [{"num_hidden_layers": n} for n in (3, 6, 12)],
}


def make_model(sizes: dict[str, Any], options: argparse.Namespace) -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**sizes)).eval().to(options.device)


def make_data(samples: int, length: int, options: argparse.Namespace) -> list[Batch]:
    """Returns batches of random tokens, with half to one and a half times the average length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(max(1, length // 2), length + length // 2 + 1, (samples,), generator=generator)
    lengths = lengths.clamp(max=512).sort(descending=True).values
    batches, start = [], 0
    while start < samples:
        rows = lengths[start : start + max(1, options.max_tokens // int(lengths[start]))]
        mask = (torch.arange(int(rows[0])) < rows.unsqueeze(1)).long()
        ids = torch.randint(1, 30_000, mask.shape, generator=generator) * mask
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.randint(2, (len(rows),), generator=generator),
            "index": torch.arange(start, start + len(rows)),
        }
        batches.append({key: value.to(options.device) for key, value in batch.items()})
        start += len(rows)
    return distributed.shard(batches)


@contextmanager
def clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def run_ours(model: PreTrainedModel, batches: Sequence[Batch], method: str, length: int) -> dict[str, float]:
    """Returns the seconds of each stage of trimformer."""
    seconds: dict[str, float] = {}
    costs = linear_costs(find_sublayers(model), "mac", length)
    name, _, bf16 = method.partition(" ")
    Pruner(model, batches, METHODS[name], run=ExecutionOptions(bf16=bool(bf16), clock=partial(clock, seconds)))(
        costs, 0.5
    )
    return seconds


@torch.no_grad()
def run_literal(model: PreTrainedModel, batches: Sequence[Batch], length: int) -> dict[str, float]:
    """Returns the seconds of each stage of the paper's recipe."""
    seconds: dict[str, float] = {}
    sublayers, costs = find_sublayers(model), linear_costs(find_sublayers(model), "mac", length)
    with clock(seconds, "calibrate"):
        grads = collect_mask_grads(model, batches, per_sample=False)
    with clock(seconds, "search"):
        curves = [importance_curve(compute_fisher_info(grad)) for grad in grads]
        select = partial(select_masks, "global", sublayers, curves, costs)
        teacher_masks = select(constraint=0.5**0.5)
        masks = [mask.to(model.device) for mask in select(constraint=0.5, rearrange_grads=grads)]
    with clock(seconds, "update"):
        for index, sublayer in enumerate(sublayers):
            before: Any = norm_after(sublayers[index - 1]) if index else model.base_model.embeddings
            with MaskUnits(sublayers, [mask.to(model.device) for mask in teacher_masks]):
                targets = capture(model, batches, partial(hijack_input, norm_after(sublayer)))
            with MaskUnits(sublayers, masks):
                inputs = capture(model, batches, partial(hijack_input, sublayer.projection))
                residuals = capture(model, batches, partial(hijack_output, before))
            sums = MomentSums(sublayer.channels, sublayer.hidden_size, model.device)
            for batch, x, target, residual in zip(batches, inputs, targets, residuals, strict=True):
                tokens = token_mask(batch)
                sums.add(x[tokens], (target - residual)[tokens], torch.ones(int(tokens.sum()), device=model.device))
            projection = sublayer.projection
            system = rescale_system(
                sums.moments(), projection.weight, projection.bias, sublayer.unit_size, sublayer.kind
            )
            kept = masks[index].bool()
            rows = torch.cat([kept, kept.new_ones(len(system[1]) - len(kept))])
            solution, _ = lsmr_cupy_solver(system[0][rows][:, rows], system[1][rows])
            if index and solution.abs().max() <= 10:
                masks[index][kept] = solution[: int(kept.sum())].float()
    return seconds


def capture(model: PreTrainedModel, batches: Sequence[Batch], hook: Callable[[list[Tensor]], Any]) -> list[Tensor]:
    """Returns the tensors that a hook captures in one forward pass over all batches."""
    captured: list[Tensor] = []
    handle = hook(captured)
    with frozen(model):
        for batch in batches:
            model(**model_inputs(batch))
    handle.remove()
    return captured


def norm_after(sublayer: Sublayer) -> nn.Module:
    """Returns BERT's norm after the residual sum."""
    layer: Any = sublayer.module
    norm: nn.Module = (layer.attention if sublayer.kind == "attention" else layer).output.LayerNorm
    return norm


def hijack_output(module: nn.Module, captured: list[Tensor]) -> Any:
    return module.register_forward_hook(lambda _, inputs, output: captured.append(output))


def measure(
    name: str, sizes: dict[str, int], samples: int, length: int, recipes: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Returns a record for each recipe: seconds and forward passes of each stage."""
    model, batches = make_model(sizes, options), make_data(samples, length, options)
    records = []
    if model.device.type == "cuda":
        run_ours(model, batches[:2], "obs", length)  # the first run loads libraries
    for recipe in recipes:
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        forward = forward_seconds(model, batches)
        if recipe == "literal":
            seconds = run_literal(model, batches, length)
        else:
            seconds = run_ours(model, batches, recipe, length)
        forward = (forward + forward_seconds(model, batches)) / 2
        total = sum(seconds.values())
        records.append(
            {
                "model": name,
                "samples": samples,
                "length": length,
                "recipe": recipe,
                "forward_seconds": forward,
                "seconds": seconds | {"total": total},
                "forward_passes": {stage: value / forward for stage, value in (seconds | {"total": total}).items()},
                "memory": peak_memory(model.device),
                **sizes,
            }
        )
    return records


STAGES = ("calibrate", "curves", "search", "shrink", "update", "total")


def to_markdown(records: list[dict[str, Any]]) -> str:
    lines = ["| model | samples x length | recipe | " + " | ".join(STAGES) + " | seconds | peak GB |"]
    lines.append("|---" * (len(STAGES) + 5) + "|")
    for r in records:
        stages = " | ".join(f"{r['forward_passes'].get(stage, 0):.2f}" for stage in STAGES)
        memory = {name.removesuffix("_gb"): gb for name, gb in r["memory"].items()}  # keys of version 0.1
        memory = memory.get("device", memory["host"])
        lines.append(
            f"| {r['model']} | {r['samples']} x {r['length']} | {r['recipe']} | {stages} | "
            f"{r['seconds']['total']:.1f} | {memory:.1f} |"
        )
    return "\n".join(lines)


def exponents(records: list[dict[str, Any]]) -> str:
    """Returns a table of the seconds along each axis and the fitted exponent."""
    lines = ["| axis | values | seconds | exponent |", "|---|---|---|---|"]
    for axis, steps in SCALING.items():
        of_axis = [r for r in records if r["model"] == axis]
        values = [next(iter(step.values())) for step in steps][: len(of_axis)]
        seconds = [r["seconds"]["total"] for r in of_axis]
        if len(values) > 1:
            slope = np.polyfit(np.log(values), np.log(seconds), 1)[0]
            shown = ", ".join(map(str, values)), ", ".join(f"{s:.1f}" for s in seconds)
            lines.append(f"| {axis} | {shown[0]} | {shown[1]} | {slope:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["MiniLM-L6", "BERT-base"])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--length", type=int, default=40, help="average length")
    unpolished = [name for name, method in METHODS.items() if not polishes(method)]
    parser.add_argument("--methods", nargs="+", choices=unpolished, default=["obs", "kwon2022"])
    parser.add_argument("--bf16", action="store_true", help="add obs with passes in bfloat16")
    parser.add_argument("--no-literal", dest="literal", action="store_false")
    parser.add_argument("--scaling", action="store_true", help="measure the growth of obs from MiniLM-L6")
    parser.add_argument("--max-tokens", type=int, default=4096, help="tokens in a batch, at most")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("outputs/speed"), help="without suffix")
    options = parser.parse_args()
    options.device = resolve_device(distributed.join_processes(options.device))
    set_up_logging()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    runs: list[tuple[str, dict[str, int], int, int, list[str]]] = []
    if options.scaling:
        for axis, steps in SCALING.items():
            for step in steps:
                data = {"samples": options.samples, "length": options.length}
                data |= {key: value for key, value in step.items() if key in data}
                sizes = SIZES["MiniLM-L6"] | {key: value for key, value in step.items() if key not in data}
                runs.append((axis, sizes, data["samples"], data["length"], ["obs"]))
    else:
        recipes = [*options.methods, *(["obs bf16"] if options.bf16 else [])]
        recipes += ["literal"] if options.literal else []
        runs = [(name, SIZES[name], options.samples, options.length, recipes) for name in options.models]
    for run in runs:
        records += measure(*run, options)
        if distributed.is_main():
            result = {"device": describe_device(options.device), "processes": distributed.world_size(), **versions()}
            options.output.with_suffix(".json").write_text(json.dumps(result | {"records": records}, indent=1) + "\n")
    if distributed.is_main():
        table = exponents(records) if options.scaling else to_markdown(records)
        options.output.with_suffix(".md").write_text(table + "\n")
        print(
            f"{describe_device(options.device)}, {distributed.world_size()} processes; stages in forward passes"
            f"\n\n{table}"
        )
    distributed.leave_processes()


if __name__ == "__main__":
    main()
