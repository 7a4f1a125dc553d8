"""Measures perplexity, KL and kept predictions of language models for methods x budgets x seeds, on the same blocks.

    python benchmarks/language.py --calibration validation.txt --test wikitext=test.txt --test chat=chats.jsonl

SmolLM2-135M-Instruct and Gemma 3 270M come from the package registry (needs the package gguf). Text files are read
whole; JSON lines hold documents, conversations, or prompts with answers. Within a seed, all methods calibrate on the
same blocks and each prunes to every budget; all models are scored in one pass over the same test blocks. --polish
trains each pruned model on the calibration blocks and on further blocks of the same file, every eighth of which is held
out, and scores it again; with --load, models that --save wrote are polished without pruning again. Writes JSON and
Markdown.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import gemma3, smollm2

from trimformer.checkpoints.save_load import load, save
from trimformer.cli.logs import set_up_logging
from trimformer.costs.cost_tables import linear_costs
from trimformer.costs.pass_cost import forward_seconds
from trimformer.data.batches import count_samples, make_batches, sample_indices
from trimformer.data.language_blocks import as_blocks
from trimformer.data.next_tokens import compare_tokens, token_losses
from trimformer.data.outputs import max_batch_tokens, model_output
from trimformer.data.splits import read_splits
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import NEXT_TOKENS, Batch
from trimformer.models.masking import frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import METHODS, Method, polishes
from trimformer.options.polish import parse_budget
from trimformer.polish.data import PolishInputs
from trimformer.polish.train import polish
from trimformer.pruner import Budget, Pruner
from trimformer.refit.regression_moments import HELD_OUT_EVERY
from trimformer.utils.environment import describe_device, versions

MODELS = {"smollm2": smollm2, "gemma3": gemma3}
LANGUAGE_METHODS = {name: method for name, method in METHODS.items() if not polishes(method)} | {
    "obs-query-heads": Method(query_heads=True),
    "obs-ffn": Method(allocation="ffn"),  # the layouts
    "obs-plain": Method(allocation="plain"),
}


def read_blocks(path: Path, model: PreTrainedModel, tokenizer: Any, length: int) -> list[Any]:
    """Returns all blocks of a file or folder."""
    (rows,) = read_splits(path).values()
    return list(as_blocks(rows, tokenizer, model.config, length=length))


def batches_of(blocks: Sequence[Any], model: PreTrainedModel, tokenizer: Any) -> list[Batch]:
    """Returns the batches of blocks."""
    return make_batches(blocks, tokenizer, 32, model.device, max_batch_tokens(model))


@torch.no_grad()
def score(dense: PreTrainedModel, students: Sequence[PreTrainedModel], batches: Sequence[Batch]) -> list[list[float]]:
    """Returns [perplexity, KL, share of kept predictions] of the dense model and of each student."""
    sums = torch.zeros(1 + len(students), 3, dtype=torch.float64)
    tokens = 0
    for batch in tqdm(batches, desc="score", disable=None):
        tokens += int((batch[NEXT_TOKENS] != -100).sum())
        with frozen(dense):
            reference = model_output(dense, batch, "language")
        sums[0] += torch.tensor([float(token_losses(reference, batch).sum()), 0.0, 0.0])
        for k, student in enumerate(students, start=1):
            with frozen(student):
                logits = model_output(student, batch, "language")
            compared = compare_tokens(logits, reference, batch).sum(0).cpu()
            sums[k] += torch.tensor([float(token_losses(logits, batch).sum()), *compared.tolist()])
    means = sums / tokens
    return [[math.exp(min(loss, 700.0)), kl, kept] for loss, kl, kept in means.tolist()]


def polish_inputs(
    blocks: Sequence[Any], chosen: Sequence[int], options: argparse.Namespace, model: PreTrainedModel, tokenizer: Any
) -> PolishInputs:
    """Returns the calibration blocks and further ones to train on; the held-out blocks are not calibrated on."""
    others = sorted(set(range(len(blocks))) - set(chosen))
    held_out = others[::HELD_OUT_EVERY][: options.blocks // HELD_OUT_EVERY]
    further = [i for i in others if i not in held_out][: max(0, options.polish_blocks - len(chosen))]
    train = [*chosen[: options.polish_blocks], *further]
    batches, held_out_batches = (batches_of([blocks[i] for i in part], model, tokenizer) for part in (train, held_out))
    return PolishInputs(batches, held_out_batches, parse_budget(options.polish))


def prune(
    model: PreTrainedModel, batches: Sequence[Batch], name: str, seed: int, options: argparse.Namespace
) -> tuple[list[PreTrainedModel], dict[str, float]]:
    """Returns the pruned models, one per budget, and the seconds that they took together."""
    costs = linear_costs(find_sublayers(model), "mac", options.length)
    start = time.perf_counter()
    run = ExecutionOptions(seed=seed, calibration_dir=options.calibration_dir, bf16=options.bf16)
    pruner = Pruner(model, batches, LANGUAGE_METHODS[name], run=run)
    calibrated = time.perf_counter()
    budgets = [Budget(costs, constraint) for constraint in options.constraints]
    groups = [budgets[i : i + options.at_once] for i in range(0, len(budgets), options.at_once)]
    pruned = [each.model for group in groups for each in pruner.prune_all(group)]
    return pruned, {"seconds_calibrate": calibrated - start, "seconds_prune_all": time.perf_counter() - calibrated}


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a record for the dense model and for each seed, method and budget."""
    model, tokenizer = load(MODELS[options.model]() if options.model in MODELS else options.model)
    model.float().to(options.device)  # type: ignore[arg-type]
    blocks = read_blocks(options.calibration, model, tokenizer, options.length)
    tests = {
        name: batches_of(read_blocks(Path(path), model, tokenizer, options.test_length)[: options.test_blocks],
                         model, tokenizer)
        for name, path in (test.split("=", 1) for test in options.test)
    }  # fmt: skip
    for name, batches in tests.items():
        yield {"method": "dense", "constraint": 1.0, "seed": 0, "test": name,
               "perplexity": score(model, [], batches)[0][0], "kl": 0.0, "kept": 1.0}  # fmt: skip

    def records(students: Sequence[PreTrainedModel], more: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for test, test_batches in tests.items():
            for (perplexity, kl, kept), fields in zip(score(model, students, test_batches)[1:], more, strict=True):
                yield {**fields, "test": test, "perplexity": perplexity, "kl": kl, "kept": kept}

    for seed in options.seeds:
        chosen = sample_indices(len(blocks), options.blocks, seed)
        batches = batches_of([blocks[i] for i in chosen], model, tokenizer)
        one_pass = forward_seconds(model, batches)
        for name in options.methods:
            keys = [f"{name}-{constraint:g}-{seed}" for constraint in options.constraints]
            common = {"seed": seed, "blocks": len(chosen), "seconds_per_pass": one_pass}
            if options.load:
                students = [load(options.load / key)[0].to(options.device) for key in keys]
            else:
                students, seconds = prune(model, batches, name, seed, options)
                common |= seconds
            if options.save:
                for key, student in zip(keys, students, strict=True):
                    save(student, tokenizer, options.save / key)
            fields = [{"method": name, "constraint": constraint, **common} for constraint in options.constraints]
            yield from records(students, fields)
            if options.polish is None:
                continue
            inputs = polish_inputs(blocks, chosen, options, model, tokenizer)
            execution = ExecutionOptions(seed=seed, bf16=options.bf16)
            for student, key, each in zip(students, keys, fields, strict=True):
                start = time.perf_counter()
                report = polish(model, student, inputs.batches, inputs.held_out, budget=inputs.budget, run=execution)
                each |= {"method": f"{name}, polished", "polish_blocks": count_samples(inputs.batches),
                         "seconds_polish": time.perf_counter() - start, "steps": report.steps,
                         "held_out": [report.before, report.after]}  # fmt: skip
                if options.save:
                    save(student, tokenizer, options.save / f"{key}-polished")
            yield from records(students, fields)


def to_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns a table per test text: ratio of perplexities / KL / kept predictions, means over seeds."""
    lines = []
    for test in dict.fromkeys(record["test"] for record in records):
        of_test = [record for record in records if record["test"] == test]
        dense = next(record["perplexity"] for record in of_test if record["method"] == "dense")
        constraints = sorted({r["constraint"] for r in of_test if r["method"] != "dense"}, reverse=True)
        lines += [f"### {test}: dense perplexity {dense:.2f}", ""]
        lines += ["| method | " + " | ".join(f"{100 * c:g} % of MACs" for c in constraints) + " |"]
        lines += ["|" + "---|" * (1 + len(constraints))]
        for method in dict.fromkeys(record["method"] for record in of_test if record["method"] != "dense"):
            cells = []
            for constraint in constraints:
                found = [r for r in of_test if (r["method"], r["constraint"]) == (method, constraint)]
                means = [sum(r[key] for r in found) / max(len(found), 1) for key in ("perplexity", "kl", "kept")]
                cells.append(f"{means[0] / dense:.3g}x / {means[1]:.2f} / {100 * means[2]:.0f} %" if found else "")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark; records are written as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", metavar="smollm2|gemma3|DIR", help="default: smollm2")
    parser.add_argument("--calibration", type=Path, required=True, metavar="FILE", help="text to calibrate on")
    parser.add_argument("--test", action="append", required=True, metavar="NAME=FILE", help="text to score on")
    parser.add_argument(
        "--methods", nargs="+", choices=list(LANGUAGE_METHODS), default=["obs", "flap", "wanda", "shortgpt"]
    )
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.9, 0.8, 0.7, 0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--blocks", type=int, default=256, help="blocks to calibrate on")
    parser.add_argument("--length", type=int, default=256, help="tokens of these blocks")
    parser.add_argument("--test-blocks", type=int, default=24, help="blocks of each test text, from its beginning")
    parser.add_argument("--test-length", type=int, default=512)
    parser.add_argument("--at-once", type=int, default=4, help="budgets pruned at once; memory grows with it")
    parser.add_argument("--calibration-dir", type=Path, metavar="DIR", help="folder that keeps calibrations")
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder for the pruned models")
    parser.add_argument("--load", type=Path, metavar="DIR", help="take pruned models of an earlier --save from there")
    parser.add_argument("--polish", metavar="10x|15min", help="polish the pruned models at this cost each")
    parser.add_argument("--polish-blocks", type=int, default=512, help="blocks to polish on, the calibration's first")
    parser.add_argument("--bf16", action="store_true", help="run passes in bfloat16; scores are always in float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/language"), help="without suffix")
    options = parser.parse_args()
    if options.polish is not None:
        parse_budget(options.polish)
    set_up_logging()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    records: list[dict[str, Any]] = []
    for record in run(options):
        records.append(record)
        machine = describe_device(torch.device(options.device))
        result = {"device": machine, **versions(), "options": settings, "records": records}
        options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(f"{to_markdown(records)}\nOn {machine}.\n")
    print(to_markdown(records))


if __name__ == "__main__":
    main()
