"""Decides once, from all rows of a run, what the numbers in a label column mean."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from trimformer.data.batches import IGNORED
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows
from trimformer.data.tasks.label_values import (
    as_number,
    class_number,
    column_values,
    is_truth,
    names_of,
    split_items,
    split_labels,
)
from trimformer.data.tasks.model_labels import ModelLabels
from trimformer.errors import TrimformerError, listed, quoted

_SHOWN = 5  # names in a log line


@dataclass(frozen=True)
class LabelReading:
    """How the labels of a run are read; the same for all rows.

    Attributes:
        numbers_are_names: a number is the number in a class's name ("1 star"), not a class id.
        multi_hot: a list holds one 0 or 1 per class, not the labels that apply.
        names: the class name of each number, for rows that bring no names themselves.
        description: the reading in words, for the log and the report.
    """

    numbers_are_names: bool = False
    multi_hot: bool = False
    names: tuple[tuple[int, str], ...] = ()
    description: str = ""


def decide_reading(
    problem: Problem,
    config: PreTrainedConfig,
    column: str,
    sets: Sequence[Rows],
    known_names: Sequence[str] = (),
    encoded: bool = False,
) -> LabelReading:
    """Decides from all rows how their labels are read.

    Args:
        problem: kind of model output.
        config: the model's configuration.
        column: column of labels.
        sets: all sets of rows.
        known_names: class names of a known task, ordered by number.
        encoded: the rows are encoded for the model, so plain numbers are class ids.

    Raises:
        TrimformerError: the numbers fit neither the model's class ids nor its names, or the rows contradict each other.
    """
    if problem == "regression":
        return _of_regression(column, sets)
    model = ModelLabels(config)
    labels = [[value for value in column_values(rows, column) if value is not None] for rows in sets]
    if problem == "multi_label":
        lists = [[split_labels(value, model) for value in values] for values in labels]
        lists = [[items for items in values if isinstance(items, list | tuple) and items] for values in lists]
        if _is_multi_hot([items for values in lists for items in values], model, column):
            text = f"lists of one 0 or 1 per class ({_shown(model.names)})"
            return LabelReading(multi_hot=True, description=f"column {quoted(column)} holds {text}")
        labels = [[item for items in values for item in items] for values in lists]
    elif problem == "tokens":
        labels = [[item for value in values for item in split_items(value)] for values in labels]
    of_sets = [_numbers(values) for values in labels]
    named = [names_of(rows, column) for rows in sets]
    plain = [rows for rows, names, numbers in zip(sets, named, of_sets, strict=True) if numbers and not names]
    names = _companion_names(column, plain, model) if plain and not model.is_generic else {}
    names = names or dict(enumerate(known_names))
    every = [of_set or names for of_set in named]
    description = _describe(column, model, bool(set().union(*of_sets)), every)
    if names or not plain:
        return LabelReading(names=tuple(names.items()), description=description)
    if any(_is_moved(of_set, model) for of_set in named):
        raise TrimformerError(
            f"some sets of rows name the numbers of column {quoted(column)} ({_shown(next(filter(None, named)))}), and "
            f"others give plain numbers; name all of them, as the model numbers them otherwise ({_shown(model.names)})"
        )
    numbers = set().union(*(of_set for of_set, names in zip(of_sets, named, strict=True) if not names))
    if encoded:
        return LabelReading(description=description)
    are_names = bool(model.numbers) and numbers <= set(model.numbers)
    fit_ids = all(0 <= number < model.count for number in numbers)
    if model.numbers and not are_names and not fit_ids and len(numbers & set(model.numbers)) > 1:
        raise TrimformerError(
            f"column {quoted(column)} holds the numbers {listed(f'{number:g}' for number in sorted(numbers))}, which "
            f"are neither class ids (0 to {model.count - 1}) nor the model's labels ({model.listed()})"
        )
    if are_names:
        doubt = ", although all could be class ids" if fit_ids else ""
        text = f"numbers, read as the labels that the model names by them{doubt}: {_shown_numbers(model)}"
        return LabelReading(True, description=f"column {quoted(column)} holds {text}")
    return LabelReading(description=description)


def _numbers(labels: Iterable[Any]) -> set[float]:
    """Returns the different numbers among labels, without truth values and the mark of unlabelled tokens."""
    numbers = {class_number(value) for value in labels if not is_truth(value)}
    return {number for number in numbers if number is not None and number != IGNORED}


def _of_regression(column: str, sets: Sequence[Rows]) -> LabelReading:
    names = next(filter(None, (names_of(rows, column) for rows in sets)), {})
    if len(names) == 2 and any(as_number(name) is None for name in names.values()):
        return LabelReading(description=f"column {quoted(column)} holds the numbers of two classes: {_shown(names)}")
    if any(as_number(name) is None for name in names.values()):
        raise TrimformerError(
            f"column {quoted(column)} holds classes ({_shown(names)}), and the model gives a number; write the number "
            "of each row, or leave the column out"
        )
    if names:
        return LabelReading(
            description=f"column {quoted(column)} holds classes whose names are the numbers: {_shown(names)}"
        )
    return LabelReading(description=f"column {quoted(column)} holds numbers")


def _is_multi_hot(lists: Sequence[Sequence[Any]], model: ModelLabels, column: str) -> bool:
    """Whether lists of labels hold one 0 or 1 per class: all of them, or none.

    Raises:
        TrimformerError: some lists can only be of zeros and ones, and others cannot.
    """
    hot = [len(items) == model.count and all(item in (0, 1) for item in items) for items in lists]
    if all(hot):
        return bool(hot)
    pairs = zip(lists, hot, strict=True)
    repeats = next((items for items, is_hot in pairs if is_hot and len(set(items)) < len(items)), None)
    other = lists[hot.index(False)]
    is_known = all(class_number(item) is not None or model.find(str(item)) is not None for item in other)
    if repeats is not None and is_known and model.count > 1:
        raise TrimformerError(
            f"column {quoted(column)} mixes lists of one 0 or 1 per class ({quoted(repeats)}) with lists of labels "
            f"({quoted(other)}); use one or the other"
        )
    return False


def _companion_names(column: str, sets: Sequence[Rows], model: ModelLabels) -> dict[int, str]:
    """Finds a text column beside numbered labels that names them, such as `label_text`; empty if there is none.

    A column names the labels if each number has one text and the reverse; if its name is not one of the usual ones,
    all its texts must be labels of the model.

    Raises:
        TrimformerError: a column of a usual name holds the model's labels, but several for one number.
    """
    usual = {f"{column}{end}" for end in ("_text", "_name", "_names", "_str", "_string")} | {"label_text", "label_name"}
    first = [rows[0] for rows in sets]
    columns = [name for name in first[0] if name != column and all(isinstance(row.get(name), str) for row in first)]
    for name in sorted(columns, key=lambda name: str(name).lower() not in usual):
        is_usual = str(name).lower() in usual
        pairs: dict[float, set[str]] = {}
        if not _collect_pairs(pairs, sets, column, str(name), None if is_usual else model):
            continue
        texts = [text for group in pairs.values() for text in group]
        known = all(model.find(text) is not None for text in texts)
        if all(len(group) == 1 for group in pairs.values()) and len(set(texts)) == len(texts) > (not is_usual):
            return {int(number): group.pop() for number, group in sorted(pairs.items())}
        if is_usual and known and len(texts) > len(pairs):
            number, group = next((number, group) for number, group in pairs.items() if len(group) > 1)
            raise TrimformerError(
                f"columns {quoted(column)} and {quoted(name)} contradict each other: label {number:g} is named "
                f"{listed(sorted(group))}; correct one, or leave it out"
            )
    return {}


def _collect_pairs(
    pairs: dict[float, set[str]], sets: Sequence[Rows], column: str, name: str, model: ModelLabels | None
) -> bool:
    """Collects the texts beside each number; False if a value is missing or, with a model, not one of its labels."""
    for rows in sets:
        for label, text in zip(column_values(rows, column), column_values(rows, name), strict=True):
            number = class_number(label)
            if number is None or not isinstance(text, str):
                return False
            group = pairs.setdefault(number, set())
            if text in group:
                continue
            if model is not None and (group or model.find(text) is None):
                return False
            group.add(text)
            if len(pairs) > 100_000 or len(group) > 100:
                return False
    return True


def _is_moved(names: Mapping[int, str], model: ModelLabels) -> bool:
    """Whether the model gives other numbers to class names of the data."""
    return not model.is_generic and any(number != i for number, i in model.match(names).items())


def _describe(column: str, model: ModelLabels, has_numbers: bool, every: Sequence[Mapping[int, str]]) -> str:
    """Says how labels are read that are names or class ids, or that the data name."""
    named = [names for names in every if names]
    if not has_numbers:
        return f"column {quoted(column)} holds class names"
    if not named:
        ids = "" if model.is_generic else f": {_shown(model.names)}"
        return f"column {quoted(column)} holds class ids{ids}"
    names = named[0]
    if model.is_generic:
        return (
            f"column {quoted(column)} holds class ids, which the data name ({_shown(names)}) and the model does not "
            f"({_shown(model.names)}): they are taken as they are"
        )
    moved = any(_is_moved(of_set, model) for of_set in named)
    order = f"the model numbers them otherwise ({_shown(model.names)}): matched by name" if moved else "as in the model"
    return f"column {quoted(column)} holds numbers that the data name ({_shown(names)}), {order}"


def _shown(names: Mapping[int, str]) -> str:
    items = [f"{i} {name}" for i, name in sorted(names.items())]
    return listed(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def _shown_numbers(model: ModelLabels) -> str:
    return listed(f"{number:g} is {quoted(model.names[i])}" for number, i in list(model.numbers.items())[:_SHOWN])
