"""Finds samples whose prediction differs between the dense and the pruned model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimformer.data.batches import Features
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks import AudioTask, ChoiceTask, ImageTask, SpanTask, Task, TextTask, TokenTask
from trimformer.data.tasks.squad_metrics import squad_f1
from trimformer.data.tasks.token_classification import UNLABELLED

EXAMPLES = 20
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
        text: what the models read, cut; of an image or a sound its file's name, else the number of its row.
        label: what would be right, where that is known.
        dense: what the dense model says. Of several labels, it is of the one whose probability moved most.
        pruned: what the pruned model says of the same.
        word: of tags, the first word whose tag differs; the predictions are of that one.
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
        examples: at most `EXAMPLES` samples, largest change first.
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

    moved: float
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
        task: what the rows mean.
        rows: of the set.
        names: the models' classes by id.
        dense: by the dense model.
        pruned: by the pruned one, which may have a tokenizer of its own.

    Returns:
        None where outputs are no statement on a sample: embeddings, masked language models, CTC, rows of words without
        tags, and spans or tags of samples that were encoded elsewhere.
    """
    if isinstance(task, SpanTask):
        found = list(_spans(task, rows, dense, pruned))
    elif isinstance(task, TokenTask):
        if not all("labels" in feature for feature in dense.features):
            return None
        found = list(_words(task, rows, names, dense, pruned))
    elif task.problem in ("single_label", "multi_label", "regression"):
        finder = {"single_label": _classes, "multi_label": _several, "regression": _numbers}[task.problem]
        found = list(finder(task, rows, names, dense, pruned))
    else:
        return None
    found.sort(key=lambda each: -each.moved)
    shown, row_numbers = found[:EXAMPLES], [number for number, _ in numbered(rows)]
    examples = [
        Change(_cut(_text(task, rows[f.index], row_numbers[f.index])), f.label, f.dense, f.pruned, f.word)
        for f in shown
    ]
    return ChangedReport(None if task.problem == "regression" else len(found), len(rows), examples)


def _pairs(dense: SampleOutputs, pruned: SampleOutputs) -> Iterator[tuple[int, Tensor, Tensor, Any]]:
    """Yields (index, dense output, pruned output, label or None) of each sample."""
    for i, (one, other, feature) in enumerate(zip(dense.outputs, pruned.outputs, dense.features, strict=True)):
        yield i, one.float(), other.float(), feature.get("labels")


def _classes(
    task: Task, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    for i, one, other, label in _pairs(dense, pruned):
        first, second = int(one.argmax()), int(other.argmax())
        if first == second:
            continue
        own = task.choices(rows[i], f"row {i + 1}")[0] if isinstance(task, ChoiceTask) else names
        a, b = one.softmax(-1), other.softmax(-1)
        gold = None if label is None else _name(own, int(label), len(one))
        yield _ChangedSample(
            float(a[first] - b[first]), i, gold, _prediction(own, a, first), _prediction(own, b, second)
        )


def _several(
    task: Task, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    for i, one, other, label in _pairs(dense, pruned):
        flipped = (one > 0) != (other > 0)
        if not flipped.any():
            continue
        a, b = one.sigmoid(), other.sigmoid()
        k = int(((a - b).abs() * flipped).argmax())
        right = [] if label is None else [_name(names, j, len(one)) for j, value in enumerate(label) if value]
        gold = None if label is None else ", ".join(right) or "none"
        yield _ChangedSample(float((a[k] - b[k]).abs()), i, gold, _prediction(names, a, k), _prediction(names, b, k))


def _numbers(
    task: Task, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    for i, one, other, label in _pairs(dense, pruned):
        # The first number is the one that is scored.
        gold = None if label is None else f"{float(torch.as_tensor(label).flatten()[0]):.4g}"
        a, b = float(one[0]), float(other[0])
        yield _ChangedSample(abs(a - b), i, gold, Prediction(f"{a:.4g}"), Prediction(f"{b:.4g}"))


def _words(
    task: TokenTask, rows: Rows, names: Sequence[str], dense: SampleOutputs, pruned: SampleOutputs
) -> Iterator[_ChangedSample]:
    sides = zip(_of_words(dense), _of_words(pruned), dense.features, rows, strict=True)
    for i, (one, other, feature, row) in enumerate(sides):
        count = min(len(one), len(other))  # another tokenizer may cut elsewhere
        first, second = one[:count].argmax(-1), other[:count].argmax(-1)
        where = (first != second).nonzero().flatten().tolist()
        if not where:
            continue
        k = where[0]
        a, b = one[k].softmax(-1), other[k].softmax(-1)
        tags = [label for label in feature["labels"] if label != UNLABELLED]
        words = _items(row[task.words_column])
        said = _prediction(names, a, int(first[k])), _prediction(names, b, int(second[k]))
        yield _ChangedSample(
            float(a[first[k]] - b[first[k]]), i, _name(names, int(tags[k]), len(a)), *said, word=_cut(str(words[k]))
        )


def _of_words(side: SampleOutputs) -> Iterator[Tensor]:
    """Yields each sample's outputs at the first token of each word, [words, classes]."""
    for output, feature in zip(side.outputs, side.features, strict=True):
        labels = torch.as_tensor(feature["labels"])
        yield output[: len(labels)][labels != UNLABELLED].float()


def _spans(task: SpanTask, rows: Rows, dense: SampleOutputs, pruned: SampleOutputs) -> Iterator[_ChangedSample]:
    answers = [task.predict_answers(side.outputs, side.features, rows) for side in (dense, pruned)]
    for i, (one, other, row) in enumerate(zip(*answers, rows, strict=True)):
        if one != other:
            golds = (row.get("answers") or {}).get("text")
            gold = None if golds is None else _answer(next(iter(golds), ""))
            moved = 1 - squad_f1(other, [one])
            yield _ChangedSample(moved, i, gold, Prediction(_answer(one)), Prediction(_answer(other)))


def _answer(text: Any) -> str:
    return _cut(str(text)) or "no answer"


def _prediction(names: Sequence[str], probabilities: Tensor, index: int) -> Prediction:
    return Prediction(_name(names, index, len(probabilities)), float(probabilities[index]))


def _name(names: Sequence[str], index: int, count: int) -> str:
    """Returns the name of a class, or its number if the names do not match the classes."""
    return _cut(names[index]) if len(names) == count else str(index)


def _text(task: Task, row: Mapping[str, Any], number: int) -> str:
    """Returns the text that identifies a sample to a reader."""
    if isinstance(task, TextTask):
        return "\n".join(str(row[column]) for column in task.text_columns)
    if isinstance(task, SpanTask):
        return str(row[task.pair_columns[0]])
    if isinstance(task, TokenTask):
        return " ".join(map(str, _items(row[task.words_column])))
    if isinstance(task, ChoiceTask):
        return " ".join(str(row[name]) for name in (task.context_column, task.question_column) if name)
    media = row[task.image_column] if isinstance(task, ImageTask) else None
    media = row[task.audio_column] if isinstance(task, AudioTask) else media
    path = media.get("path") if isinstance(media, Mapping) else media
    return Path(path).name if isinstance(path, str | Path) and path else f"row {number}"


def _items(value: Any) -> list[Any]:
    return value.split() if isinstance(value, str) else list(value)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
