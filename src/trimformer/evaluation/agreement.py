"""Agreement of two models' predictions, overall and by label; a mean hides what becomes of rare labels."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimformer.data.batches import IGNORED
from trimformer.data.outputs import Problem
from trimformer.data.rows import number_alike
from trimformer.data.tasks import ScoredByQuery, SpanTask
from trimformer.evaluation.bounds import jackknife, leave_out
from trimformer.evaluation.changed_predictions import (
    MAX_EXAMPLES,
    Change,
    ChangedReport,
    Prediction,
    SampleOutputs,
    shorten_text,
)
from trimformer.evaluation.scores import Scorer

INTERVAL_GROUPS = 20  # of the paired interval


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement on one label.

    Attributes:
        label: name of the label.
        dense: number of times that the dense model predicts it.
        pruned: number of times that the pruned model predicts it.
        kept: number of times that both predict it.
    """

    label: str
    dense: int
    pruned: int
    kept: int


@dataclass(frozen=True)
class AgreementReport:
    """Predictions of the dense model that the pruned model keeps, on the first evaluation set.

    Attributes:
        unit: "samples" or "tokens".
        total: number of predictions compared.
        kept: share of the predictions that stay the same; of several labels, all of a sample's must.
        majority: the label that the dense model predicts most often; None without names.
        others: share kept of the predictions that are not the majority label; None without names or without any. Of
            several labels, the share kept of all labels that the dense model assigns.
        labels: by label, the most frequent first; labels that neither model predicts are left out.
    """

    unit: str
    total: int
    kept: float
    majority: str | None
    others: float | None
    labels: list[LabelAgreement]


def find_agreement(
    problem: Problem,
    names: Sequence[str],
    dense: SampleOutputs,
    pruned: SampleOutputs,
    special_ids: Collection[int] = (),
) -> AgreementReport | None:
    """Compares the predictions of two models on the same samples.

    Args:
        problem: kind of output.
        names: the models' classes by id; empty if classes have no names.
        dense: outputs of the dense model.
        pruned: outputs of the pruned model; samples that it tokenizes differently are left out.
        special_ids: ids of the tokenizer's special tokens; outputs there are no predictions.

    Returns:
        None if outputs are not classes, or nothing can be compared.
    """
    if problem == "multi_label":
        return _multi_label(names, dense, pruned)
    if problem == "single_label":
        pairs = list(zip(dense.outputs, pruned.outputs, strict=True))
        before, after = (torch.tensor([int(pair[side].argmax()) for pair in pairs]) for side in range(2))
    elif problem == "tokens":
        token_pairs = [(a.argmax(-1), b.argmax(-1)) for _, a, b in token_outputs(dense, pruned, special_ids)]
        before, after = (torch.cat([pair[k] for pair in token_pairs] or [torch.zeros(0).long()]) for k in range(2))
    else:
        return None
    if not len(before):
        return None
    same = before == after
    unit = "tokens" if problem == "tokens" else "samples"
    if not names or int(max(before.max(), after.max())) >= len(names):
        return AgreementReport(unit, len(same), float(same.double().mean()), None, None, [])
    counts = [torch.bincount(labels, minlength=len(names)) for labels in (before, after, before[same])]
    majority = int(counts[0].argmax())
    rest = before != majority
    others = float(same[rest].double().mean()) if rest.any() else None
    return AgreementReport(
        unit, len(same), float(same.double().mean()), names[majority], others, _by_label(names, *counts)
    )


def _multi_label(names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs) -> AgreementReport | None:
    before, after = (torch.stack(list(side.outputs)) > 0 for side in (dense, pruned))  # [samples, labels]
    if not len(before):
        return None
    kept = before & after
    same = (before == after).all(1).double().mean()
    others = float(kept.sum() / before.sum()) if before.any() else None
    counts = [chosen.sum(0) for chosen in (before, after, kept)]
    labels = _by_label(names, *counts) if len(names) == before.shape[1] else []
    return AgreementReport("samples", len(before), float(same), None, others if labels else None, labels)


def _by_label(names: Sequence[str], dense: Tensor, pruned: Tensor, kept: Tensor) -> list[LabelAgreement]:
    rows = zip(names, dense.tolist(), pruned.tolist(), kept.tolist(), strict=True)
    labels = [LabelAgreement(*row) for row in rows if row[1] or row[2]]
    return sorted(labels, key=lambda label: -label.dense)


def predicted_tokens(output: Tensor, feature: Mapping[str, Any], special_ids: Collection[int]) -> Tensor:
    """Returns the positions of a sample's output [length, classes] that are predictions, [positions].

    These are the labelled tokens, else the tokens that are neither padding nor special, else frames with an output.
    """
    ids, labels = feature.get("input_ids"), feature.get("labels")
    if ids is None:
        return output.any(-1).nonzero().flatten()
    if labels is not None and np.ndim(labels) == 1 and len(labels) == len(ids):
        return (torch.as_tensor(labels) != IGNORED).nonzero().flatten()
    special = torch.tensor(sorted(special_ids), dtype=torch.long)
    chosen = ~torch.isin(torch.as_tensor(ids), special)
    if "attention_mask" in feature:
        chosen &= torch.as_tensor(feature["attention_mask"]).bool()
    return chosen.nonzero().flatten()


def token_outputs(
    dense: SampleOutputs, pruned: SampleOutputs, special_ids: Collection[int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields (index, dense outputs, pruned outputs) [positions, classes] of the samples that can be compared."""
    sides = zip(dense.outputs, pruned.outputs, dense.features, pruned.features, strict=True)
    for index, (one, other, feature, other_feature) in enumerate(sides):
        first, second = (
            output[predicted_tokens(output, sample, special_ids)]
            for output, sample in ((one, feature), (other, other_feature))
        )
        if first.shape == second.shape and len(first):
            yield index, first, second


def find_changed_tokens(
    tokenizer: Any, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> ChangedReport | None:
    """Finds the samples with changed labels of tokens, where the rows have no labels to name the words.

    Args:
        tokenizer: the dense model's tokenizer; it gives the texts.
        names: the models' classes by id.
        dense: outputs of the dense model.
        pruned: outputs of the pruned model.

    Returns:
        None if the samples are not texts, or nothing can be compared.
    """
    if not all("input_ids" in feature for feature in dense.features):
        return None
    changes: list[tuple[float, Change]] = []
    total = 0
    for index, one, other in token_outputs(dense, pruned, tokenizer.all_special_ids):
        total += 1
        first, second = one.argmax(-1), other.argmax(-1)
        places = (first != second).nonzero().flatten()
        if not len(places):
            continue
        a, b = one.float().softmax(-1), other.float().softmax(-1)
        drops = a[places, first[places]] - b[places, first[places]]
        k = int(places[drops.argmax()])
        feature = dense.features[index]
        ids = torch.as_tensor(feature["input_ids"])[predicted_tokens(one, feature, tokenizer.all_special_ids)]
        text, word = tokenizer.decode(feature["input_ids"], skip_special_tokens=True), tokenizer.decode([int(ids[k])])
        before, after = (
            Prediction(names[int(label)], float(p[k, label])) for p, label in ((a, first[k]), (b, second[k]))
        )
        changes.append((float(drops.max()), Change(shorten_text(text), None, before, after, word)))
    changes.sort(key=lambda change: -change[0])
    return ChangedReport(len(changes), total, [change for _, change in changes[:MAX_EXAMPLES]]) if total else None


def paired_interval(
    scorer: Scorer, dense: Sequence[Tensor], pruned_scorer: Scorer, pruned: Sequence[Tensor], metric: str
) -> float | None:
    """Returns half the 95 % interval of a score's change, from the paired difference on the same rows.

    Rows that share a text count as one.

    Args:
        scorer: of the set.
        dense: the dense model's outputs, one per feature.
        pruned_scorer: scorer with the pruned model's tokenizer.
        pruned: the pruned model's outputs.
        metric: name of the score.

    Returns:
        None if there are too few rows, or the rows of a group cannot be scored alone.
    """
    scored = scorer.scored_rows
    clusters = number_alike(scorer.clusters[row] for row in scored)
    if scorer.num_independent < 2 * INTERVAL_GROUPS or (
        scorer.task.problem == "embedding" and not isinstance(scorer.task, ScoredByQuery)
    ):
        return None
    if isinstance(scorer.task, SpanTask):  # costs one pass over the rows instead of one a group
        groups = [
            [row for row, c in zip(scored, clusters, strict=True) if c % INTERVAL_GROUPS == k]
            for k in range(INTERVAL_GROUPS)
        ]
        differences = [
            pruned_scorer.score_some(pruned, group)[metric] - scorer.score_some(dense, group)[metric]
            for group in groups
        ]
        return float(1.96 * np.std(differences, ddof=1) / INTERVAL_GROUPS**0.5)
    scores = []
    for side, outputs in ((scorer, dense), (pruned_scorer, pruned)):
        estimate = side.metric_of_rows(outputs, metric)
        try:
            scores.append(leave_out(lambda kept, of=estimate: of([scored[i] for i in kept]), clusters, INTERVAL_GROUPS))  # type: ignore[misc]
        except KeyError:  # without the group that has all labels there is no score
            return None
    return 1.96 * jackknife(scores[1] - scores[0])[1]
