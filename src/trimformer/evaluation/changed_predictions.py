"""Finds samples whose prediction differs between the dense and the pruned model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimformer.data.batches import IGNORED, Features
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks import AudioTask, ChoiceTask, ImageTask, SpanTask, Task, TextTask, TokenTask
from trimformer.data.tasks.label_values import split_items
from trimformer.data.tasks.squad_metrics import squad_f1
from trimformer.data.tasks.token_classification import LABELLED_WORDS

MAX_EXAMPLES = 20  # changed samples that are shown
LONGEST = 300  # characters of a text that is shown


@dataclass(frozen=True)
class Prediction:
    """A prediction: a class name, number or answer, and its probability if it has one."""

    name: str
    probability: float | None = None


@dataclass(frozen=True)
class Change:
    """One sample whose prediction changed.

    Attributes:
        text: the text, shortened; for an image or a sound its file name, or the number of its row.
        label: the correct answer, if it is known.
        dense: prediction of the dense model; of several labels, the one whose probability changed most.
        pruned: prediction of the pruned model for the same label or word.
        word: for tags, the first word whose tag differs, to which the predictions belong.
    """

    text: str
    label: str | None
    dense: Prediction
    pruned: Prediction
    word: str | None = None


@dataclass(frozen=True)
class ChangedReport:
    """Changed predictions on the first evaluation set.

    Attributes:
        count: number of samples whose prediction changed; None for numbers, which all change a little.
        of: total number of samples compared.
        examples: at most `MAX_EXAMPLES` samples, largest change first.
    """

    count: int | None
    of: int
    examples: list[Change]


@dataclass(frozen=True)
class SampleOutputs:
    """A model's outputs on a set, one per feature, and the features."""

    outputs: Sequence[Tensor]
    features: Sequence[Features]


@dataclass(frozen=True)
class _ChangedSample:
    """A sample's index, the size of its change, and both predictions."""

    size: float
    index: int
    label: str | None
    dense: Prediction
    pruned: Prediction
    word: str | None = None


def find_changed(
    task: Task, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> ChangedReport | None:
    """Compares the predictions of two models on the same rows.

    Args:
        task: task of the rows.
        rows: rows of the set.
        names: the models' class names by id.
        dense: outputs of the dense model.
        pruned: outputs of the pruned model, which may have another tokenizer.

    Returns:
        The changed samples; None if samples have no single prediction: embeddings, masked language models, CTC, words
        without tags, and spans or tags of samples that were already encoded.
    """
    if isinstance(task, SpanTask):
        changes = list(_spans(task, rows, dense, pruned))
    elif isinstance(task, TokenTask):
        if not all("labels" in feature for feature in dense.features):
            return None
        changes = list(_words(task, rows, names, dense, pruned))
    elif task.problem in ("single_label", "multi_label", "regression"):
        finder = {"single_label": _classes, "multi_label": _several, "regression": _numbers}[task.problem]
        changes = list(finder(task, rows, names, dense, pruned))
    else:
        return None
    changes.sort(key=lambda change: -change.size)
    row_numbers = [number for number, _ in numbered(rows)]
    examples = [
        Change(shorten_text(_text(task, rows[c.index], row_numbers[c.index])), c.label, c.dense, c.pruned, c.word)
        for c in changes[:MAX_EXAMPLES]
    ]
    return ChangedReport(None if task.problem == "regression" else len(changes), len(rows), examples)


def _pairs(dense: SampleOutputs, pruned: SampleOutputs) -> Iterator[tuple[int, Tensor, Tensor, Any]]:
    """Yields (index, dense output, pruned output, label or None) of each sample."""
    samples = zip(dense.outputs, pruned.outputs, dense.features, strict=True)
    for i, (dense_output, pruned_output, feature) in enumerate(samples):
        yield i, dense_output.float(), pruned_output.float(), feature.get("labels")


def _classes(
    task: Task, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    for i, dense_logits, pruned_logits, label in _pairs(dense, pruned):
        old, new = int(dense_logits.argmax()), int(pruned_logits.argmax())
        if old == new:
            continue
        choices = task.choices(rows[i], f"row {i + 1}")[0] if isinstance(task, ChoiceTask) else names
        p_dense, p_pruned = dense_logits.softmax(-1), pruned_logits.softmax(-1)
        gold = None if label is None else _name(choices, int(label), len(dense_logits))
        size = float(p_dense[old] - p_pruned[old])
        yield _ChangedSample(size, i, gold, _prediction(choices, p_dense, old), _prediction(choices, p_pruned, new))


def _several(
    task: Task, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    for i, dense_logits, pruned_logits, label in _pairs(dense, pruned):
        flipped = (dense_logits > 0) != (pruned_logits > 0)
        if not flipped.any():
            continue
        p_dense, p_pruned = dense_logits.sigmoid(), pruned_logits.sigmoid()
        k = int(((p_dense - p_pruned).abs() * flipped).argmax())
        gold = None
        if label is not None:
            gold = ", ".join(_name(names, j, len(p_dense)) for j, value in enumerate(label) if value) or "none"
        size = float((p_dense[k] - p_pruned[k]).abs())
        yield _ChangedSample(size, i, gold, _prediction(names, p_dense, k), _prediction(names, p_pruned, k))


def _numbers(
    task: Task, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    for i, dense_output, pruned_output, label in _pairs(dense, pruned):
        # The first number is the one that is scored.
        gold = None if label is None else f"{float(torch.as_tensor(label).flatten()[0]):.4g}"
        old, new = float(dense_output[0]), float(pruned_output[0])
        yield _ChangedSample(abs(old - new), i, gold, Prediction(f"{old:.4g}"), Prediction(f"{new:.4g}"))


def _words(
    task: TokenTask, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    samples = zip(_word_outputs(dense), _word_outputs(pruned), dense.features, rows, strict=True)
    for i, (dense_logits, pruned_logits, feature, row) in enumerate(samples):
        count = min(len(dense_logits), len(pruned_logits))  # another tokenizer may truncate elsewhere
        old, new = dense_logits[:count].argmax(-1), pruned_logits[:count].argmax(-1)
        changed = (old != new).nonzero().flatten().tolist()
        if not changed:
            continue
        k = changed[0]
        p_dense, p_pruned = dense_logits[k].softmax(-1), pruned_logits[k].softmax(-1)
        tags = [label for label in feature["labels"] if label != IGNORED]
        yield _ChangedSample(
            float(p_dense[old[k]] - p_pruned[old[k]]),
            i,
            _name(names, int(tags[k]), len(p_dense)),
            _prediction(names, p_dense, int(old[k])),
            _prediction(names, p_pruned, int(new[k])),
            word=shorten_text(str(split_items(row[task.words_column])[feature[LABELLED_WORDS][k]])),
        )


def _word_outputs(side: SampleOutputs) -> Iterator[Tensor]:
    """Yields each sample's outputs at the first token of each word, [words, classes]."""
    for output, feature in zip(side.outputs, side.features, strict=True):
        labels = torch.as_tensor(feature["labels"])
        yield output[: len(labels)][labels != IGNORED].float()


def _spans(task: SpanTask, rows: Rows, dense: SampleOutputs, pruned: SampleOutputs) -> Iterator[_ChangedSample]:
    answers = [task.predict_answers(side.outputs, side.features, rows) for side in (dense, pruned)]
    for i, (old, new, row) in enumerate(zip(*answers, rows, strict=True)):
        if old != new:
            gold_texts = (row.get("answers") or {}).get("text")
            gold = None if gold_texts is None else _answer(next(iter(gold_texts), ""))
            size = 1 - squad_f1(new, [old])
            yield _ChangedSample(size, i, gold, Prediction(_answer(old)), Prediction(_answer(new)))


def _answer(text: Any) -> str:
    return shorten_text(str(text)) or "no answer"


def _prediction(names: Sequence[str], probabilities: Tensor, index: int) -> Prediction:
    return Prediction(_name(names, index, len(probabilities)), float(probabilities[index]))


def _name(names: Sequence[str], index: int, count: int) -> str:
    """Returns the name of a class, or its number if the names do not match the classes."""
    return shorten_text(names[index]) if len(names) == count else str(index)


def _text(task: Task, row: Mapping[str, Any], number: int) -> str:
    """Returns the text that identifies a sample to a reader."""
    if isinstance(task, TextTask):
        return "\n".join(str(row[column]) for column in task.text_columns)
    if isinstance(task, SpanTask):
        return str(row[task.pair_columns[0]])
    if isinstance(task, TokenTask):
        return " ".join(map(str, split_items(row[task.words_column])))
    if isinstance(task, ChoiceTask):
        return " ".join(str(row[name]) for name in (task.context_column, task.question_column) if name)
    media = row[task.image_column] if isinstance(task, ImageTask) else None
    media = row[task.audio_column] if isinstance(task, AudioTask) else media
    path = media.get("path") if isinstance(media, Mapping) else media
    return Path(path).name if isinstance(path, str | Path) and path else f"row {number}"


def shorten_text(text: str) -> str:
    """Returns a text as it is shown: cut at `LONGEST` characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
