"""Reads labels: decides once, from all rows, what the numbers in a label column mean, and finds each label's class."""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedConfig

from trimformer.data.class_names import class_names_of
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows, row_numbers
from trimformer.data.tasks.model_labels import ModelLabels, is_generic
from trimformer.errors import TrimformerError, listed, quoted

UNLABELLED = -100  # label of tokens that neither the loss nor the scores count

_WHOLE_NUMBER = re.compile(r"-?[0-9]+(\.0+)?")  # pandas writes class ids as 1.0 where some are missing
_LARGEST = (2 - 2**-23) * 2.0**127  # in float32
_TRUTH = {"true": 1, "false": 0}
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


class LabelReader:
    """Reads the labels of one set of rows.

    Args:
        problem: kind of model output.
        config: the model's configuration.
        rows: the rows; their class names decide what their numbers mean.
        column: column of labels.
        reading: how the labels of the run are read; None: decided from these rows.
        encoded: the rows are encoded for the model, so plain numbers are class ids.
    """

    def __init__(
        self,
        problem: Problem,
        config: PreTrainedConfig,
        rows: Rows,
        column: str,
        reading: LabelReading | None = None,
        encoded: bool = False,
    ) -> None:
        self.problem, self.column, self.model = problem, column, ModelLabels(config)
        names = _names_of(rows, column)
        self.reading = reading or decide(problem, config, column, [rows], encoded=encoded)
        self.names = names or dict(self.reading.names)
        if problem != "regression":
            self.model.check_ids()

    @cached_property
    def _ids(self) -> dict[int, int] | None:
        """The model's class id of each number that has a known name; None: numbers are class ids."""
        return self.model.match(self.names) if self.names and not self.model.is_generic else None

    def read(self, value: Any, where: str) -> int | float | list[float]:
        """Converts a label to the form that the model's loss expects: a class id, a number, or one 0 or 1 per class.

        Args:
            value: a class id or name, or a number. For a multi-label problem: a list of ids or names, one 0 or 1 per
                class, or a string of labels separated by commas, semicolons, bars or spaces.
            where: the row, for error messages.

        Raises:
            TrimformerError: the value has another form, or names an unknown class.
        """
        value = value.tolist() if hasattr(value, "tolist") else value
        if self.problem == "regression":
            return self._number(value, where)
        if self.problem != "multi_label":
            if isinstance(value, list):
                raise TrimformerError(f"{where} has a list of labels, but this model predicts one label per sample")
            return self.class_id(value, where)
        items = split_labels(value, self.model)
        if not isinstance(items, list | tuple):
            raise TrimformerError(
                f"label {quoted(str(value))} in {where} is not a list; this model predicts several labels per sample"
            )
        if self.reading.multi_hot and items:
            return [float(item) for item in items]
        ids = {self.class_id(item, where) for item in items}
        return [float(i in ids) for i in range(self.model.count)]

    def _number(self, value: Any, where: str) -> float:
        """Reads the label of a regression."""
        number = as_number(value)
        if number is None and _is_truth(value):
            number = _TRUTH[value.strip().lower()]
        if number is not None and number in self.names:
            name = as_number(self.names[int(number)])
            number = number if name is None else name
        if number is None:
            raise TrimformerError(
                f"label {quoted(value)} in {where} is not a finite number in float32; this model is a regressor"
            )
        return float(number)

    def class_id(self, value: Any, where: str) -> int:
        """Returns the id of a class given by id or name.

        Raises:
            TrimformerError: the value is neither an id nor a name of one of the model's classes.
        """
        model = self.model
        value = value.tolist() if hasattr(value, "tolist") else value
        number, is_truth = _class_number(value), _is_truth(value)
        if is_truth or (isinstance(value, str) and number is None):
            found = model.find(str(value))
            if found is not None:
                return found
        by_name = self.reading.numbers_are_names and not is_truth
        if (number is None and isinstance(value, str)) or (by_name and number not in model.numbers):
            raise TrimformerError(
                f"label {quoted(value)} in {where} is unknown to the model; its labels are {model.listed()}"
            )
        if number is None:
            raise TrimformerError(
                f"label {quoted(value)} in {where} is not a class id or name; this model is a classifier"
            )
        if self._ids is not None and not is_truth:
            return self._named_class(number, where)
        if by_name:
            return model.numbers[number]
        if number == -1:
            raise TrimformerError(
                f"label -1 in {where} is outside the model's {model.count} labels; public data sets mark rows without "
                "a label so: leave these rows out"
            )
        if number != int(number) or not 0 <= number < model.count:
            raise TrimformerError(f"label {number:.10g} in {where} is outside the model's {model.count} labels")
        return int(number)

    def _named_class(self, number: float, where: str) -> int:
        """Returns the model's class with the name that the data gives to a number."""
        assert self._ids is not None
        if number in self._ids:
            return self._ids[int(number)]
        name = self.names.get(int(number))
        if name is None:
            hint = ": public data sets mark rows without a label so; leave these rows out" if number == -1 else ""
            raise TrimformerError(
                f"label {number:g} in {where} is none of the data's classes, {listed(self.names.values())}{hint}"
            )
        raise TrimformerError(
            f"label {number:g} in {where} means {quoted(name)}, but the model's labels are "
            f"{self.model.listed()}; give both the same names (id2label in the model's config), or, if the numbers are "
            "the model's own, give the column as plain numbers"
        )


def decide(
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
        labels = [[item for value in values for item in split_tags(value)] for values in labels]
    of_sets = [_numbers(values) for values in labels]
    named = [_names_of(rows, column) for rows in sets]
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
    numbers = {_class_number(value) for value in labels if not _is_truth(value)}
    return {number for number in numbers if number is not None and number != UNLABELLED}


def column_values(rows: Rows, column: str) -> list[Any]:
    """Returns one value per row, None where the row lacks the column."""
    plain = getattr(rows, "format", {}).get("type", "custom") is None  # a `datasets.Dataset` without a transform
    if plain and column in getattr(rows, "column_names", ()):
        values: list[Any] = list(rows[column])  # type: ignore[call-overload]
        return values
    return [row.get(column) for row in rows]


def split_labels(value: Any, model: ModelLabels) -> Any:
    """Splits a string into labels, with numbers for digits; one of the model's labels is not split.

    A list is returned with numbers for digits that are no label; any other value unchanged.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        value = _split(value.strip(), model)
    if not isinstance(value, list | tuple):
        return value
    return [int(item) if isinstance(item, str) and re.fullmatch("[01]", item.strip()) else item for item in value]


def _split(text: str, model: ModelLabels) -> Any:
    if text and model.find(text) is not None:
        return [text]
    if text.startswith("["):  # pandas writes a list to CSV this way
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return text
    parts = re.split("[,;|]", text)
    return [part.strip() for part in parts if part.strip()] if len(parts) > 1 else text.split()


def split_tags(value: Any) -> list[Any]:
    """Returns the tags of a row; a string is split at white space; empty if there are none."""
    if isinstance(value, str):
        return value.split()
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, list | tuple) else []


def as_number(value: Any) -> float | None:
    """Returns a number that is finite in float32, also one that is written in a string; None for any other value."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= _LARGEST else None


def _class_number(value: Any) -> float | None:
    """Returns the number that a label is or is written as; "true" is 1 and "false" 0; None for a name."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        return float(text) if _WHOLE_NUMBER.fullmatch(text) else None
    if isinstance(value, list | tuple | Mapping):
        return None
    number = as_number(value)
    return number if number is None or number == int(number) else None


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _TRUTH)


def _names_of(rows: Rows, column: str) -> dict[int, str]:
    """Returns the class names of a column's numbers; empty if they only repeat the numbers."""
    names = dict(enumerate(class_names_of(rows).get(column, ())))
    return {} if is_generic(names) else names


def _of_regression(column: str, sets: Sequence[Rows]) -> LabelReading:
    names = next(filter(None, (_names_of(rows, column) for rows in sets)), {})
    if names and all(as_number(name) is not None for name in names.values()):
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
    is_known = all(_class_number(item) is not None or model.find(str(item)) is not None for item in other)
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
            number = _class_number(label)
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


def check_every_label(reader: LabelReader, rows: Rows, column: str) -> None:
    """Checks the label of every row, so that an error does not depend on the rows that are drawn.

    Raises:
        TrimformerError: a label is unknown to the model or has another form.
    """
    checked: set[Any] = set()
    for number, value in zip(row_numbers(rows), column_values(rows, column), strict=True):
        for item in split_tags(value) if reader.problem == "tokens" else [value]:
            key = (type(item), item if isinstance(item, str | int | float) else repr(item))
            if key in checked or item == UNLABELLED:
                continue
            checked.add(key)
            (reader.class_id if reader.problem == "tokens" else reader.read)(item, f"row {number}")
