"""Finds the class of each label."""

from functools import cached_property
from typing import Any

from transformers import PreTrainedConfig

from trimformer.data.batches import IGNORED
from trimformer.data.outputs import Problem
from trimformer.data.rows import Rows, row_numbers
from trimformer.data.tasks.label_reading import LabelReading, decide_reading
from trimformer.data.tasks.label_values import (
    TRUTH,
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
        self.problem, self.model = problem, ModelLabels(config)
        names = names_of(rows, column)
        self.reading = reading or decide_reading(problem, config, column, [rows], encoded=encoded)
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
        if number is None and is_truth(value):
            number = TRUTH[value.strip().lower()]
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
        number, truth = class_number(value), is_truth(value)
        if truth or (isinstance(value, str) and number is None):
            found = model.find(str(value))
            if found is not None:
                return found
        by_name = self.reading.numbers_are_names and not truth
        if (number is None and isinstance(value, str)) or (by_name and number not in model.numbers):
            raise TrimformerError(
                f"label {quoted(value)} in {where} is unknown to the model; its labels are {model.listed()}"
            )
        if number is None:
            raise TrimformerError(
                f"label {quoted(value)} in {where} is not a class id or name; this model is a classifier"
            )
        if self._ids is not None and not truth:
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


def check_every_label(reader: LabelReader, rows: Rows, column: str) -> None:
    """Checks the label of every row, so that an error does not depend on the rows that are drawn.

    Raises:
        TrimformerError: a label is unknown to the model or has another form.
    """
    checked: set[Any] = set()
    for number, value in zip(row_numbers(rows), column_values(rows, column), strict=True):
        for item in split_items(value) if reader.problem == "tokens" else [value]:
            key = (type(item), item if isinstance(item, str | int | float) else repr(item))
            if key in checked or item == IGNORED:
                continue
            checked.add(key)
            (reader.class_id if reader.problem == "tokens" else reader.read)(item, f"row {number}")
