"""Measures how often the bounds of quality promises hold, and what few test rows cost, on populations of real rows.

    python benchmarks/coverage.py                     # three populations; takes about half an hour on two cores
    python benchmarks/coverage.py --populations movie --parts searches --output docs/coverage
    python benchmarks/coverage.py --parts macro_f1 --output docs/coverage          # simulated labels, no population

A population is a dense model and some pruned ones on rows that did not calibrate: the divergence of each row and, of
the classifier, the class probabilities and the labels. Rows are drawn from it again and again; the mean over the
population is the truth. A population is stored beside the output and made once: a classifier of movie reviews, an
embedder of the same sentences, and a tagger of names in tweets. Everything comes from the package registry. Writes JSON
and Markdown.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from assets import finetuned, minilm, movie_reviews, tweets

from trimformer.allocation.predict_constraint import predict_constraint
from trimformer.checkpoints.save_load import load
from trimformer.costs.cost_tables import linear_costs
from trimformer.costs.macs import layer_lengths
from trimformer.data.batches import make_batches, mean_length
from trimformer.data.metrics import METRICS
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import task_of
from trimformer.evaluation.bounds import TRIALS, drop_bound, jackknife, leave_out, mean_bound, quantile, unseen
from trimformer.evaluation.model_outputs import unbatch
from trimformer.evaluation.quality_test import PREDICTION_MARGIN
from trimformer.evaluation.scores import Scorer
from trimformer.models import find_sublayers
from trimformer.options.methods import find_method
from trimformer.pruner import Budget, Pruner
from trimformer.utils.environment import describe_device, versions

Values = NDArray[np.float64]

PARTS = ("divergence", "macro_f1", "searches")
# Data and model of each population.
MODELS: dict[str, tuple[Callable[[], Path], Callable[[], Path]]] = {
    "movie": (movie_reviews, lambda: finetuned("movie-reviews", movie_reviews(), epochs=1, label_column="label")),
    "embedder": (movie_reviews, minilm),
    "tagger": (tweets, lambda: finetuned("tweets", tweets(), epochs=4)),
}
BUDGETS = (0.8, 0.6, 0.45, 0.25)
ROWS = (100, 300, 1000, 5000)
CALIBRATION = 512


def make_population(name: str, path: Path) -> None:
    """Prunes a model of `MODELS` to all budgets and stores what it does on up to 3,000 rows that do not calibrate."""
    data, directory = MODELS[name]
    model, processor = load(directory())
    splits = {split: [dict(row) for row in rows] for split, rows in read_splits(data()).items()}
    if name == "embedder":
        splits = {split: [{"sentence": row["sentence"]} for row in rows] for split, rows in splits.items()}
    train, validation = find_splits(splits)
    order = np.random.default_rng(0).permutation(len(train)).tolist()
    rows = [train[i] for i in order[CALIBRATION : CALIBRATION + 1500]] + list(next(iter(validation.values())))
    label = "label" if "label" in rows[0] else None
    task = task_of(model, rows, label_column=label)
    features = task.encode([train[i] for i in order[:CALIBRATION]], processor, model.config)
    batches = make_batches(features, processor, 32)
    lengths = layer_lengths(model, find_sublayers(model), batches[0], features, mean_length(features))
    costs = linear_costs(find_sublayers(model), "mac", lengths)
    scorer = Scorer("population", rows, task, model, processor)
    references = scorer(model)[1]
    arrays: dict[str, Any] = {"labels": np.array([row[label] for row in rows])} if label else {}

    def add(key: str, outputs: Any) -> None:
        arrays[f"{key}_div"] = scorer.divergences(outputs, references).numpy()
        if label:
            arrays[f"{key}_pred"] = torch.stack(unbatch(outputs, scorer.batches)).softmax(-1).numpy()

    add("dense", references)
    pruner = Pruner(model, batches, find_method("obs"))
    for budget, pruned in zip(BUDGETS, pruner.prune_all([Budget(costs, c) for c in BUDGETS]), strict=True):
        add(f"full_{budget}", scorer(pruned.model)[1])
    np.savez(path, **arrays)


def t_bound(values: Values) -> float:
    """Returns Student's bound."""
    return float(values.mean() + t.ppf(0.95, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def unseen_row_bound(values: Values) -> float:
    """Returns Student's bound after one row of 1.5 times the largest value was added, which was used before."""
    return t_bound(np.append(values, 1.5 * values.max()))


def hall_bound(values: Values) -> float:
    """Returns the bound after Hall's cubic transformation, which removes the skewness."""
    n, deviation = len(values), values.std(ddof=1)
    skew = max(float(((values - values.mean()) ** 3).mean()) / deviation**3, 1e-6) / math.sqrt(n)
    z = float(np.cbrt(1 + skew * (t.ppf(0.05, n - 1) - skew / 6)) - 1) * 3 / skew
    return float(values.mean() - z * deviation / math.sqrt(n))


def bootstrap_t(values: Values, draws: int = 300) -> float:
    """Returns the studentised bootstrap bound."""
    rng, n = np.random.default_rng(0), len(values)
    samples = values[rng.integers(0, n, (draws, n))]
    scores = (samples.mean(1) - values.mean()) / np.maximum(samples.std(1, ddof=1), 1e-300)
    return float(values.mean() - np.quantile(scores, 0.05) * values.std(ddof=1))


def log_bound(values: Values) -> float:
    """Returns Cox's bound for the mean of a lognormal distribution."""
    logs, n = np.log(values.clip(0) + 1e-3 * values.mean()), len(values)
    variance = float(logs.var(ddof=1))
    width = t.ppf(0.95, n - 1) * math.sqrt(variance / n + variance**2 / 2 / (n - 1))
    return math.exp(float(logs.mean()) + variance / 2 + width)


def bernstein_bound(values: Values, largest: float) -> float:
    """Returns Maurer and Pontil's empirical Bernstein bound for values up to a known largest one."""
    n, log = len(values), math.log(2 / 0.05)
    return float(values.mean() + math.sqrt(2 * values.var(ddof=1) * log / n) + 7 * largest * log / (3 * (n - 1)))


def bound_methods(largest: float) -> dict[str, Callable[[Values], float]]:
    return {
        "t": t_bound,
        "Hall": hall_bound,
        "bootstrap-t": bootstrap_t,
        "log": log_bound,
        "Bernstein": lambda values: bernstein_bound(values, largest),
        "one more row (before)": unseen_row_bound,
        "rule of three (now)": mean_bound,
    }


def divergence_coverage(populations: dict[str, Values], repeats: int) -> list[dict[str, Any]]:
    """Returns the coverage and the median width of each bound, for each population and number of rows."""
    records = []
    for name, values in populations.items():
        for rows in ROWS:
            rng = np.random.default_rng(rows)
            draws = [values[rng.integers(0, len(values), rows)] for _ in range(repeats)]
            for method, bound in bound_methods(float(values.max())).items():
                some = draws[: max(100, 30_000 // rows)] if method == "bootstrap-t" else draws  # slow
                bounds = np.array([bound(draw) for draw in some])
                records.append({
                    "population": name, "rows": rows, "method": method,
                    "covered": float((bounds >= values.mean()).mean()),
                    "width": float(np.median(bounds) / values.mean()), "draws": len(some),
                })  # fmt: skip
    return records


def score_of(score: Callable[[Any, Any], float], predictions: Any, labels: Any, rows: Any) -> float:
    return score(predictions[rows], labels[rows])


def macro_f1_coverage(repeats: int) -> list[dict[str, Any]]:
    """Returns coverage and size of the bound on the drop of macro-F1 with a rare class.

    "before" takes 1 / rows as the most that a row can change the score, as for accuracy; "now" takes the most that a
    row of any class does.
    """
    records, rng = [], np.random.default_rng(0)
    labels = rng.choice(4, 200_000, p=[0.5, 0.3, 0.17, 0.03])
    dense = np.where(rng.random(len(labels)) < 0.9, labels, rng.integers(0, 4, len(labels)))
    broken = rng.random(len(labels)) < np.where(labels == 3, 0.12, 0.03)  # the rare class suffers more
    pruned = np.where(broken, rng.integers(0, 3, len(labels)), dense)
    score = METRICS["macro_f1"]
    truth = score(dense, labels) - score(pruned, labels)
    for rows in (300, 1000):
        bounds: dict[str, list[float]] = {"before": [], "now": []}
        for _ in range(repeats):
            index = rng.integers(0, len(labels), rows)
            y, a, b = labels[index], dense[index], pruned[index]
            parts = [leave_out(partial(score_of, score, p, y), range(rows)) for p in (a, b)]
            drop, error = jackknife(parts[0] - parts[1])
            change = 1 / rows
            for label in np.unique(y):
                wrong = a.copy()
                row = int(np.flatnonzero(y == label)[0])
                wrong[row] = (label + 1) % 4
                change = max(change, float(parts[0][0]) - score(wrong, y))
            for name, largest in (("before", 1 / rows), ("now", change)):
                bounds[name].append(drop_bound(drop, error, largest))
        records += [
            {
                "rows": rows, "method": name, "draws": repeats, "truth": float(truth),
                "covered": float(np.mean(np.array(values) >= truth)), "bound": float(np.median(values)),
            }
            for name, values in bounds.items()
        ]  # fmt: skip
    return records


class Population:
    """A population between whose budgets changed predictions and divergences are interpolated.

    A pruned model at a budget in between is one of its two neighbours on each row, by a fixed random choice.
    """

    def __init__(self, arrays: Any) -> None:
        names = sorted(float(k.split("_")[1]) for k in arrays.files if k.startswith("full_") and k.endswith("_div"))
        right = {c: arrays[f"full_{c}_pred"].argmax(1) == arrays["labels"] for c in names}
        right[1.0] = arrays["dense_pred"].argmax(1) == arrays["labels"]
        self.budgets, self.right = [*names, 1.0], right
        self.divergences = {**{c: arrays[f"full_{c}_div"] for c in names}, 1.0: arrays["dense_div"]}
        self.choice = np.random.default_rng(1).random(len(arrays["labels"]))

    def at(self, budget: float, values: dict[float, Any]) -> Any:
        """Returns the values of all rows at a budget."""
        high = next(c for c in self.budgets if c >= min(budget, 1.0))
        low = max((c for c in self.budgets if c < high), default=high)
        share = 0.0 if high == low else math.log(high / max(budget, low)) / math.log(high / low)
        return np.where(self.choice < share, values[low], values[high])

    def lost(self, budget: float) -> Values:
        """Returns 1 for each row that only the dense model predicts correctly, -1 for the reverse, else 0."""
        return np.subtract(self.right[1.0], self.at(budget, self.right), dtype=np.float64)


def simulate(population: Population, target: float, rows: int, kind: str, splits: int) -> dict[str, Any]:
    """Simulates searches on random splits: what they promise, and whether that holds for the population."""
    count, lowest = len(population.choice), population.budgets[0]
    budgets, kept, looks = [], [], []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(count)
        screen, judged = order[:384], np.random.default_rng(split + 10**6).choice(order[384:], rows)

        def values(budget: float, index: Any) -> Values:
            every = population.lost(budget) if kind == "drop" else population.at(budget, population.divergences)
            return np.asarray(every[index])

        def excess(budget: float, screen: Any = screen) -> float:
            sample = values(budget, screen)
            z = quantile(TRIALS[0][1])
            if kind == "divergence":
                more = unseen(sample, rows, TRIALS[0][1])
                return (
                    float(sample.mean())
                    + (z + PREDICTION_MARGIN) * float(sample.std()) / math.sqrt(rows)
                    + more
                    - target
                )
            error = float(sample.std()) / math.sqrt(rows)
            return drop_bound(max(sample.mean(), 0), error, 1 / rows, TRIALS[0][1]) + PREDICTION_MARGIN * error - target

        predicted = predict_constraint(excess, lowest)
        for look, (power, alpha) in enumerate(TRIALS, 1):
            budget = predicted**power
            sample = values(budget, judged)
            bound = mean_bound(sample, alpha) if kind == "divergence" else drop_bound(
                float(sample.mean()), float(sample.std()) / math.sqrt(rows), 1 / rows, alpha)  # fmt: skip
            if bound <= target:
                budgets.append(budget)
                looks.append(look)
                kept.append(values(budget, order).mean() <= target)
                break
        else:
            budgets.append(1.0)
            kept.append(True)
            looks.append(len(TRIALS))
    return {
        "kind": kind, "target": target, "rows": rows, "splits": splits, "macs": float(np.median(budgets)),
        "kept": int(sum(kept)), "looks": float(np.mean(looks)), "none": float(np.mean(np.array(budgets) == 1)),
    }  # fmt: skip


def to_markdown(result: dict[str, Any]) -> str:
    """Returns a table for each part that the result has."""
    tables = {"divergence": divergence_table, "macro_f1": macro_f1_table, "searches": searches_table}
    return "\n\n".join("\n".join(table(result[part])) for part, table in tables.items() if part in result) + "\n"


def divergence_table(records: list[dict[str, Any]]) -> list[str]:
    methods = list(bound_methods(1.0))
    lines = [f"| population | rows | {' | '.join(methods)} |", "|---" * (len(methods) + 2) + "|"]
    cells: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    for r in records:
        key = r["population"].split(",")[0], r["rows"], r["method"]
        cells.setdefault(key, []).append((r["covered"], r["width"]))
    for population, rows in dict.fromkeys((population, rows) for population, rows, _ in cells):
        budgets = [cells[population, rows, method] for method in methods]  # lowest coverage, largest bound
        numbers = " | ".join(f"{100 * min(c for c, _ in b):.1f} ({max(w for _, w in b):.2f})" for b in budgets)
        lines.append(f"| {population} | {rows:,} | {numbers} |")
    return lines


def macro_f1_table(records: list[dict[str, Any]]) -> list[str]:
    lines = ["| macro-F1, rows | before | now |", "|---|---|---|"]
    scores = {(r["rows"], r["method"]): f"{100 * r['covered']:.1f} % ({100 * r['bound']:.1f} points)" for r in records}
    return lines + [
        f"| {n:,} | {scores[n, 'before']} | {scores[n, 'now']} |" for n in dict.fromkeys(n for n, _ in scores)
    ]


def searches_table(records: list[dict[str, Any]]) -> list[str]:
    lines = ["| target | test rows | MACs kept, median | promises kept | models tested | nothing promised |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for r in records:
        name = f"drop {100 * r['target']:g} points" if r["kind"] == "drop" else f"divergence {r['target']:g}"
        lines.append(
            f"| {name} | {r['rows']:,} | {100 * r['macs']:.0f} % | {r['kept']} of {r['splits']} | {r['looks']:.2f} "
            f"| {100 * r['none']:.0f} % |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--populations", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as they are recorded")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("outputs/coverage"), help="without suffix")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    file = options.output.with_suffix(".json")
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    result |= {"device": describe_device(torch.device("cpu")), **versions()}
    needed = list(options.populations) if "divergence" in options.parts else []
    needed += ["movie"] if "searches" in options.parts and "movie" not in needed else []
    paths = {name: options.output.with_name(f"{name}.npz") for name in needed}
    for name, path in paths.items():
        if not path.exists():
            make_population(name, path)
    if "divergence" in options.parts:
        values: dict[str, Values] = {}
        for name, path in paths.items():
            arrays = np.load(path)
            keys = [key for key in arrays.files if key.startswith("full_") and key.endswith("_div")]
            values |= {f"{name}, {100 * float(key.split('_')[1]):.0f} %": arrays[key].clip(0) for key in keys}
        result["divergence"] = divergence_coverage(values, options.repeats)
    if "macro_f1" in options.parts:
        result["macro_f1"] = macro_f1_coverage(options.repeats // 5)
    if "searches" in options.parts:
        population = Population(np.load(paths["movie"]))
        result["searches"] = [
            simulate(population, target, rows, kind, options.splits)
            for kind, target in (("drop", 0.01), ("divergence", 0.01))
            for rows in (500, 2000, 5000)
        ]
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = to_markdown(result)
    options.output.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
