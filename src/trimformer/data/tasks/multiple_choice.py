"""Multiple choice tasks: the model picks the best of several continuations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.metrics import confidence_interval
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import NO_LIMIT, Task, check_columns, guess_column, missing_column
from trimformer.data.tasks.text import encode_texts
from trimformer.data.tasks.text_values import as_text, is_blank
from trimformer.errors import TrimformerError, quoted

CONTEXT_COLUMNS = ("sent1", "article", "passage", "context", "ctx", "premise", "prompt", "goal")
QUESTION_COLUMNS = ("sent2", "question", "query")
CHOICES_COLUMNS = ("choices", "endings", "options", "candidates", "answers")
LABEL_COLUMNS = ("label", "labels", "answer", "answerkey", "answer_key", "correct", "target")

_NUMBERED_CHOICE = re.compile(r"(ending|choice|option|answer|sol|solution|hypothesis)_?\d+", re.IGNORECASE)
_POSITION = re.compile(r"[A-Za-z]|\d+(\.0+)?")  # labels that can denote a choice by its position


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(Task):
    """A context, a question or both per row, and several choices, one of which is correct.

    Attributes:
        context_column: text that all choices share, the first text of each pair; None: there is only a question.
        question_column: with a context, the text put before each choice; without one, the first text of each pair.
        choice_columns: one column of lists, or one column per choice.
        label_column: the correct choice, given by its position from 0, its letter (A, B, ...), its name in
            `choices["label"]`, or its text; None: the rows are unlabelled.
        labels_are_texts: whether all labels are texts of choices, so that digits are not positions; see
            `settle_choices`.
    """

    problem: Problem = "single_label"
    context_column: str | None = None
    question_column: str | None = None
    choice_columns: tuple[str, ...] = ("choices",)
    label_column: str | None = "label"
    labels_are_texts: bool = False

    auto_class: ClassVar[str] = "AutoModelForMultipleChoice"

    @property
    def _prompt_columns(self) -> list[str]:
        return [name for name in (self.context_column, self.question_column) if name]

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`; each value of a feature is a list with one list per choice."""
        prompt_columns = self._prompt_columns
        label_column = self.label_column if any(self.label_column in row for row in rows) else None
        check_columns(rows, (*prompt_columns, *self.choice_columns, *([label_column] if label_column else [])))
        texts: tuple[list[str], list[str]] = ([], [])
        counts, labels = [], []
        for number, row in numbered(rows):
            choices, names = self.choices(row, f"row {number}")
            prompts = [as_text(row[name], f"column {quoted(name)} in row {number}") for name in prompt_columns]
            texts[0].extend(prompts[:1] * len(choices))
            texts[1].extend(" ".join([*prompts[1:], choice]) for choice in choices)
            counts.append(len(choices))
            if label_column:
                labels.append((row[label_column], choices, names, f"row {number}"))
        encoded = iter(encode_texts(texts, self, processor, config))
        features: list[dict[str, Any]] = []
        for count in counts:
            row_choices = [next(encoded) for _ in range(count)]
            features.append({key: [choice[key] for choice in row_choices] for key in row_choices[0]})
        for feature, label in zip(features, labels, strict=False):
            feature["labels"] = _read_choice(*label, by_text=self.labels_are_texts)
        return features

    def choices(self, row: Mapping[str, Any], where: str) -> tuple[list[str], list[str]]:
        """Returns a row's choices and their names, if any.

        Raises:
            TrimformerError: the row has fewer than two choices, or a choice is not a text.
        """
        values, names = self.choice_values(row)
        if not isinstance(values, list | tuple) or len(values) < 2:
            raise TrimformerError(f"{quoted(self.choice_columns[0])} in {where} is not a list of two or more choices")
        return [as_text(value, f"a choice of {where}") for value in values], names

    def choice_values(self, row: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Returns the unchecked contents of a row's choice columns, and the names of the choices."""
        values: Any = [row.get(name) for name in self.choice_columns]
        names: list[str] = []
        if len(self.choice_columns) == 1:
            values = values[0]
            if isinstance(values, Mapping):  # as in CommonsenseQA and ARC
                values, names = values.get("text"), [str(name) for name in values.get("label") or ()]
            values = values.tolist() if hasattr(values, "tolist") else values
        return values, names

    @property
    def label_columns(self) -> tuple[str, ...]:
        """See `Task.label_columns`."""
        return (self.label_column,) if self.label_column else ()

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """See `Task.is_blank`; a row without choices is not blank but invalid."""
        values, _ = self.choice_values(row)
        if not isinstance(values, list | tuple) or not values:
            return False
        return all(map(is_blank, [*map(row.get, self._prompt_columns), *values]))

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """See `Task.score`; computes the accuracy."""
        return choice_scores(outputs, features)


def choice_scores(outputs: Sequence[Tensor], features: Sequence[Features]) -> dict[str, float]:
    """Computes the accuracy of outputs [choices] each, with half its 95 % interval; empty without labels."""
    if not features or "labels" not in features[0]:
        return {}
    pairs = zip(outputs, features, strict=True)
    correct = np.array([int(output.argmax()) == feature["labels"] for output, feature in pairs])
    return {"accuracy": float(correct.mean()), "accuracy_ci95": confidence_interval(correct)}


def _number(column: str) -> int:
    """Returns the number at the end of a column's name."""
    return int(re.findall(r"\d+", column)[-1])


def _are_texts(labels: Sequence[tuple[Any, Sequence[str]]]) -> bool:
    """Whether all labels are the text of a choice, from pairs of a label and its row's choices.

    Raises:
        TrimformerError: all of them can be read as positions, too, and not all mean the same.
    """
    if not labels or not all(isinstance(value, str) and value in choices for value, choices in labels):
        return False
    are_positions = all(value.isdecimal() and int(value) < len(choices) for value, choices in labels)
    if are_positions and any(choices[int(value)] != value for value, choices in labels):
        raise TrimformerError(
            f"the labels, such as {quoted(labels[0][0])}, can be texts of choices or their positions; give letters "
            "(A, B, ...)"
        )
    return True


def _read_choice(value: Any, choices: Sequence[str], names: Sequence[str], where: str, *, by_text: bool) -> int:
    """Returns the position of the choice that a label denotes.

    Args:
        value: the name of a choice, its letter or its position; or its text.
        choices: of the row.
        names: of the choices, if they have any.
        where: names the row.
        by_text: whether all labels of the data are texts of choices.
    """
    text = str(value).strip()
    if text in names:
        return names.index(text)
    if isinstance(value, str) and value in choices and (by_text or not _POSITION.fullmatch(text)):
        return choices.index(value)
    if len(text) == 1 and text.isascii() and text.isalpha():
        position = ord(text.upper()) - ord("A")
    else:
        position = int(text.partition(".")[0][:9]) if re.fullmatch(r"\d+(\.0+)?", text) else -1
    if not 0 <= position < len(choices):
        raise TrimformerError(f"label {quoted(str(value))} in {where} matches none of its {len(choices)} choices")
    return position


def settle_choices(task: Task, sets: Sequence[Rows]) -> Task:
    """Decides from all rows whether labels of a multiple choice task are texts of choices; returns other tasks.

    Raises:
        TrimformerError: all labels can be texts or positions, and not all mean the same.
    """
    if not isinstance(task, ChoiceTask) or task.label_column is None:
        return task
    labels = []
    for row in chain.from_iterable(sets):
        choices, names = task.choice_values(row)  # unchecked: a row that is not drawn may hold anything
        value = row.get(task.label_column)
        if str(value).strip() == "0" and names and "0" not in names and all(map(str.isdecimal, names)):
            raise TrimformerError(
                f"the label 0 is a position, but the choices are named {', '.join(names)}, so that other labels can be "
                "positions or names; give names or letters"
            )
        if value is not None and isinstance(choices, list | tuple) and str(value).strip() not in names:
            labels.append((value, choices))
    return replace(task, labels_are_texts=_are_texts(labels))


def choice_task(
    rows: Rows,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int = NO_LIMIT,
) -> ChoiceTask:
    """Creates a task for the user's own rows; columns that are not named are guessed from the usual names.

    Args:
        rows: the user's examples.
        text_columns: the column of questions or contexts, and the column of lists of choices.
        label_column: column of the correct choice.
        max_length: maximum number of tokens per pair of texts.

    Raises:
        TrimformerError: a column is not named and cannot be guessed, or one text column is named instead of two.
    """
    row = rows[0]
    context = question = None
    if text_columns is not None:
        if len(text_columns) != 2:
            raise TrimformerError(
                f"'{text_columns[0]}' is one column; name two, the questions and the lists of choices"
            )
        context = text_columns[0]
        choices: tuple[str, ...] = (text_columns[1],)
    else:
        context, question = guess_column(CONTEXT_COLUMNS, row), guess_column(QUESTION_COLUMNS, row)
        if context is None and question is None:
            raise missing_column("column of questions", row)
        list_columns = [name for name in CHOICES_COLUMNS if not isinstance(row.get(name), str)]
        list_column = guess_column(list_columns, row, [context or "", question or ""])
        numbered_columns = sorted(filter(_NUMBERED_CHOICE.fullmatch, row), key=_number)
        choices = (list_column,) if list_column else tuple(numbered_columns)
        if not choices:
            raise missing_column("column of choices", row)
    label = label_column or guess_column(LABEL_COLUMNS, row, choices)
    return ChoiceTask(
        name="choice",
        context_column=context,
        question_column=question,
        choice_columns=choices,
        label_column=label,
        metric="accuracy" if label else None,
        max_length=max_length,
    )
