"""The class names in a model's configuration, and how a name or a number in data finds its class."""

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from transformers import PreTrainedConfig

from trimformer.errors import TrimformerError, listed, quoted

MAX_LISTED = 30  # names in one error message
MIN_ABBREVIATION = 3  # letters, as in "neg" for "negative"

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_WITH_NUMBER = re.compile(r"([^0-9]*)([0-9]+(?:\.[0-9]+)?)([^0-9]*)")


class ModelLabels:
    """The classes of a model.

    Args:
        config: the model's configuration; `id2label` names the classes, and `label2id` may add further names.

    Attributes:
        names: name of each class by id.
        count: number of classes.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.names = {int(i): str(name) for i, name in (config.id2label or {}).items()}
        self.count = config.num_labels or 0
        self._label2id: Mapping[Any, Any] = config.label2id or {}

    def check_ids(self) -> None:
        """Checks that the ids of the classes are 0 to `count` - 1.

        Raises:
            TrimformerError: ids are missing or too large.
        """
        ids = sorted(self.names)
        if ids != list(range(self.count)):
            raise TrimformerError(
                f"id2label in the model's config has the ids {listed(ids)}; number its {self.count} labels from 0 to "
                f"{self.count - 1}"
            )

    @cached_property
    def is_generic(self) -> bool:
        """Whether the names say nothing, such as LABEL_0, LABEL_1 or 0, 1."""
        return not self._extra_names and is_generic(self.names)

    @cached_property
    def _extra_names(self) -> dict[str, int]:
        """Names that only `label2id` has; the defaults of Transformers, as in a config made before, are no names."""
        named = set(self.names.values())
        extra = {str(name): int(i) for name, i in self._label2id.items() if name not in named}
        return {} if is_generic({i: name for name, i in extra.items()}) else extra

    @cached_property
    def _ids(self) -> tuple[Mapping[str, list[int]], Mapping[str, list[int]]]:
        """The ids of each name, as it is written and as `fold` writes it."""
        exact: dict[str, list[int]] = defaultdict(list)
        folded: dict[str, list[int]] = defaultdict(list)
        for name, i in [*((name, i) for i, name in self.names.items()), *self._extra_names.items()]:
            exact[name].append(i)
            if i not in folded[fold(name)]:
                folded[fold(name)].append(i)
        return exact, folded

    def find(self, name: str) -> int | None:
        """Returns the id of the class with a name, in any case if no name is written the same; None if there is none.

        Raises:
            TrimformerError: several classes have the name, or `label2id` gives another id than `id2label`.
        """
        exact, folded = self._ids
        ids = exact.get(name) or folded.get(fold(name)) or []
        if len(ids) > 1:
            raise TrimformerError(
                f"the model has several labels named {quoted(name)} ({listed(ids)} in id2label of its config); give "
                "each its own name, or give class ids as labels"
            )
        if not ids:
            generic = re.fullmatch(r"LABEL_([0-9]+)", name)
            return int(generic[1]) if generic and name in self._label2id and int(generic[1]) < self.count else None
        other = self._label2id.get(self.names.get(ids[0], ""), ids[0])
        if str(other) != str(ids[0]):
            raise TrimformerError(
                f"the model's config contradicts itself: label {quoted(name)} has the id {ids[0]} in id2label and "
                f"{quoted(other)} in label2id; correct one of them"
            )
        return ids[0]

    def match(self, names: Mapping[int, str]) -> dict[int, int]:
        """Matches numbered class names of data with the model's.

        Where no name is known and there are as many names as classes, unique abbreviations match: "neg" and "negative".

        Returns:
            The model's class id of each number whose name is known.
        """
        found = {number: self.find(name) for number, name in names.items()}
        matched = {number: i for number, i in found.items() if i is not None}
        if not matched and len(names) == self.count:
            short = {number: self._abbreviated(name) for number, name in names.items()}
            if all(len(ids) == 1 for ids in short.values()) and len({ids[0] for ids in short.values()}) == self.count:
                return {number: ids[0] for number, ids in short.items()}
        return matched

    def _abbreviated(self, name: str) -> list[int]:
        """The ids of the classes whose name begins with a name, or the reverse."""
        text = fold(name)
        others = {i: fold(other) for i, other in self.names.items()}
        return [
            i
            for i, other in others.items()
            if min(len(text), len(other)) >= MIN_ABBREVIATION and (other.startswith(text) or text.startswith(other))
        ]

    @cached_property
    def numbers(self) -> Mapping[float, int]:
        """The ids of the numbers in the names, as in "1 star", "2 stars"; empty if they are the ids themselves.

        If the names differ in more than a number, only names that are nothing but a number count.
        """
        parts = {i: _WITH_NUMBER.fullmatch(fold(name)) for i, name in self.names.items()}
        around = {(m[1].removesuffix("-"), m[3].strip().removesuffix("s")) if m else None for m in parts.values()}
        if len(around) == 1 and None not in around:
            pairs = [(float(m[2]) * (-1 if m[1] == "-" else 1), i) for i, m in parts.items() if m]
        else:
            pairs = [(float(name), i) for i, name in self.names.items() if _NUMBER.fullmatch(name)]
        numbers = dict(pairs)
        repeated = len(numbers) < len(pairs)
        return {} if repeated or all(number == i for number, i in pairs) else numbers

    def listed(self) -> str:
        """The names, ordered by id, as an error message lists them."""
        names = [name for _, name in sorted(self.names.items())] or list(self._extra_names)
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        return listed(names[:MAX_LISTED], 1500) + more


def fold(name: str) -> str:
    """Returns a name in lower case, with one space for each run of spaces, underscores and inner hyphens."""
    return re.sub(r"[\s_]+|(?<=\w)-", " ", name.strip()).casefold()


def is_generic(names: Mapping[int, str]) -> bool:
    """Whether names only repeat their numbers, such as LABEL_0, LABEL_1 or 0, 1; also if there are no names."""
    return all(name.casefold() in (f"label_{i}", f"label{i}", f"class_{i}", str(i)) for i, name in names.items())
