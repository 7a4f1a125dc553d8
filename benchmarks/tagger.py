"""Measures what a tagger keeps of the names it finds, by the texts that it is calibrated on.

    python benchmarks/tagger.py --seeds 0 1 2

MiniLM-L6, fine-tuned on tweets with marked names (O, B-name, I-name), is pruned on an equal number of calibration texts
of each kind: movie reviews, reviews in which the model finds no name, tweets that mark none, reviews with a share of
tweets, and tweets. It is scored on the validation tweets. Everything comes from the package registry. Writes JSON and
Markdown; records that are in the JSON already are not measured again.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import keep_records, table_head
from assets import finetuned, movie_reviews, tweets

import trimformer
from trimformer.cli.logs import set_up_logging
from trimformer.data.batches import sample_indices
from trimformer.data.splits import find_splits, read_splits

OUTSIDE = "O"
Row = dict[str, Any]


@torch.no_grad()
def finds_no_name(model: Any, tokenizer: Any, row: Row) -> bool:
    """Returns whether a model labels every token of a row as outside of names."""
    encoded = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, return_tensors="pt")
    labels = model(**encoded).logits[0, 1:-1].argmax(-1)
    return all(model.config.id2label[label] == OUTSIDE for label in labels.tolist())


def calibration_rows(
    reviews: Sequence[Row], plain: Sequence[Row], tagged: Sequence[Row], number: int, seed: int
) -> dict[str, list[Row]]:
    """Returns rows of each kind of calibration text, `number` of a kind; the model finds no name in `plain`."""
    nameless = [row for row in tagged if set(row["ner_tags"]) == {OUTSIDE}]

    def draw(rows: Sequence[Row], count: int) -> list[Row]:
        return [{"tokens": rows[i]["tokens"]} for i in sample_indices(len(rows), count, seed)]

    def mix(count: int) -> list[Row]:
        return draw(reviews, number - count) + draw(tagged, count)

    return {
        "movie reviews": mix(0),
        "reviews without a found name": draw(plain, number),
        "tweets without names": draw(nameless, number),
        "reviews, 1 of 8 a tweet": mix(number // 8),
        "reviews and tweets, half each": mix(number // 2),
        "tweets": mix(number),
    }


def run_tagger(options: argparse.Namespace, known: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields a record for each seed, kind of text and budget that is not known yet."""
    done = {(record["kind"], record["constraint"], record["seed"]) for record in known}
    train, validation = find_splits(read_splits(tweets()))
    rows = [{"tokens": row["tokens"]} for row in next(iter(validation.values()))]
    reviews = [{"tokens": row["sentence"].split()} for row in find_splits(read_splits(movie_reviews()))[0]]
    model, tokenizer = trimformer.load(finetuned("tweets", tweets(), epochs=4))
    plain = [row for row in reviews[: 4 * options.samples] if finds_no_name(model, tokenizer, row)]
    for seed in options.seeds:
        kinds = calibration_rows(reviews, plain, [dict(row) for row in train], options.samples, seed)
        for kind, chosen in kinds.items():
            for constraint in (c for c in options.constraints if (kind, c, seed) not in done):
                result = trimformer.prune(
                    model, tokenizer, chosen, constraint, eval_dataset={"validation": rows}, num_samples=len(chosen),
                    seed=seed,
                )  # fmt: skip
                yield {"kind": kind, "constraint": constraint, "seed": seed, **figures(result)}


def figures(result: trimformer.PruningResult) -> dict[str, Any]:
    """Returns what the dense model predicts on the calibration texts, and what the pruned one keeps on the tweets."""
    agreement, coverage, scores = result.agreement, result.coverage, result.scores
    assert agreement is not None
    assert coverage is not None
    assert coverage.labels is not None
    assert scores is not None
    covered = coverage.labels
    return {
        "names": 1 - covered.counts[OUTSIDE] / sum(covered.counts.values()),
        "missing": list(covered.missing),
        "warnings": result.warnings,
        "kept": agreement.others,
        "tokens": sum(label.dense for label in agreement.labels if label.label != OUTSIDE),
        "divergence": scores.divergence,
    }


def to_markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table: names among the calibration's tokens, labels warned of, and names kept, over seeds."""
    constraints = sorted({record["constraint"] for record in records}, reverse=True)
    columns = [f"{100 * constraint:g} % of MACs" for constraint in constraints]
    lines = table_head("names kept", ["calibration texts", "tokens in names", "labels warned of", *columns])
    for kind in dict.fromkeys(record["kind"] for record in records):
        some = [record for record in records if record["kind"] == kind]
        shares, cells = [100 * record["names"] for record in some], []
        warned = ", ".join(dict.fromkeys(label for record in some for label in record["missing"])) or "none"
        for constraint in constraints:
            kept = [100 * record["kept"] for record in some if record["constraint"] == constraint]
            spread = f" ({min(kept):.1f} to {max(kept):.1f})" if len(kept) > 1 else ""
            cells.append(f"{np.mean(kept):.1f} %{spread}" if kept else "")
        lines.append(f"| {kind} | {np.mean(shares):.1f} % | {warned} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraints", nargs="+", type=float, default=[0.5])
    parser.add_argument("--samples", type=int, default=512, help="calibration texts")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/tagger"), help="without suffix")
    options = parser.parse_args()
    set_up_logging()
    file = options.output.with_suffix(".json")
    records: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["records"] if file.exists() else []
    keep_records(["tagger"], lambda _: run_tagger(options, list(records)), to_markdown, options.output, "cpu", records)
    print(to_markdown(records))


if __name__ == "__main__":
    main()
