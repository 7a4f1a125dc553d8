"""Measures what a language model loses with its vocabulary, without pruning anything else.

    python benchmarks/vocabulary.py MODEL_DIR test.txt validation.txt [MORE.txt ...] --blocks 24

Scores on blocks of the first text; each further text adds its tokens to those of the texts before it. Prints a row per
vocabulary, with the perplexity that `trimformer prune --vocabulary` reports and that of the saved model, which shares
the lost probability out; both are per token of the dense model.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trimformer.checkpoints.save_load import file_size, load
from trimformer.checkpoints.token_embeddings import trim_embeddings
from trimformer.checkpoints.vocabulary import check_trimmable, vocabulary_of_texts
from trimformer.data.files import read_texts
from trimformer.data.language_blocks import as_blocks
from trimformer.data.next_tokens import token_losses
from trimformer.data.rows import Selection
from trimformer.data.tasks import LanguageTask
from trimformer.evaluation.language import LanguageScorer
from trimformer.evaluation.language_vocabulary import LanguageVocabularyScorer, measure_lost
from trimformer.models.layer_calls import NEXT_TOKENS
from trimformer.utils.environment import describe_device, versions


@torch.inference_mode()
def saved_perplexity(model: Any, scorer: LanguageVocabularyScorer, new_ids: Any) -> float:
    """Returns the perplexity of a model that has lost its tokens, per token of the dense model."""
    total = 0.0
    for batch in scorer.batches:
        ids, targets = (torch.from_numpy(new_ids)[batch[key].clamp(min=0)] for key in ("input_ids", NEXT_TOKENS))
        targets = targets.where(batch[NEXT_TOKENS] >= 0, batch[NEXT_TOKENS])
        logits = model(input_ids=ids.clamp(min=0), attention_mask=batch["attention_mask"]).logits
        total += float(token_losses(logits, {NEXT_TOKENS: targets}).sum())
    return math.exp(total / float(scorer.token_counts.sum()))


def main() -> None:
    """Measures all vocabularies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, help="scored")
    parser.add_argument("vocabulary", nargs="+", type=Path, help="texts whose tokens stay")
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--length", type=int, default=256, help="tokens of a block")
    parser.add_argument("--output", type=Path, default=Path("outputs/vocabulary.json"))
    options = parser.parse_args()
    model, tokenizer = load(options.model)
    check_trimmable(model, tokenizer)
    text = options.text.read_text(encoding="utf-8")
    rows = as_blocks([{"text": text}], tokenizer, model.config, length=options.length)
    rows = Selection(rows, np.linspace(0, len(rows) - 1, options.blocks).round().astype(int).tolist())
    dense = LanguageScorer("text", rows, LanguageTask(name="language", max_length=options.length), model, tokenizer, 8)
    scores, references = dense(model)
    records, texts = [], []
    for path in options.vocabulary:
        texts += read_texts(path)
        vocabulary = vocabulary_of_texts(model, tokenizer, texts)
        scorer, small = (
            LanguageVocabularyScorer(dense, vocabulary, model),
            trim_embeddings(model, vocabulary.kept_ids),
        )
        lost, (own_scores, outputs) = measure_lost(dense, vocabulary, model, tokenizer), scorer(model)
        records.append({
            "texts": path.name, "characters": sum(map(len, texts)), "tokens": len(vocabulary.kept_ids),
            "of": vocabulary.dense_size, "parameters": sum(p.numel() for p in small.parameters()),
            "bytes": file_size(small), **vars(lost), "dense_perplexity": scores["perplexity"],
            "perplexity": own_scores["perplexity"], "divergence": scorer.divergence(outputs, references),
            "kept": scorer.agreement(outputs, references).kept,
            "saved_perplexity": saved_perplexity(small, scorer, vocabulary.new_ids),
        })  # fmt: skip
        r = records[-1]
        print(f"| {r['texts']} | {r['tokens']:,} | {r['parameters'] / 1e6:.1f} | {100 * r['probability']:.1f} % | "
              f"{100 * r['predictions']:.1f} % | {r['lengthening']:.3f}x | {r['perplexity']:.1f} | "
              f"{r['saved_perplexity']:.1f} | {r['divergence']:.3f} |", flush=True)  # fmt: skip
    print(f"dense: perplexity {scores['perplexity']:.1f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"device": describe_device(model.device), "versions": versions(), "blocks": options.blocks}
    options.output.write_text(json.dumps({**about, "records": records}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
