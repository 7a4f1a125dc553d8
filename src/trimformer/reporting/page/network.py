"""The network, layer by layer, and what each sublayer was foretold and then measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimformer.reporting.page.numbers import Shown, small

_NAME = re.compile(r"layer (\d+) (\w+)")  # of a sublayer, see `Sublayer.name`

WORDS = {"attention": "heads", "ffn": "neurons"}


@dataclass(frozen=True)
class Part:
    """A sublayer.

    Attributes:
        layer: its number.
        kind: "attention" or "ffn".
        units: that are left.
        of: so many.
        heads: one per head, whether it is left; empty of neurons.
        predicted: loss increase by its curve.
        before: error of its output before the refit.
        after: and after.
        note: what else became of the refit.
    """

    layer: int
    kind: str
    units: int
    of: int
    heads: tuple[bool, ...]
    predicted: Shown | None
    before: Shown | None
    after: Shown | None
    note: str

    @property
    def word(self) -> str:
        """What its units are."""
        return WORDS[self.kind]

    @property
    def percent(self) -> float:
        """Of the units that are left."""
        return 100 * self.units / max(self.of, 1)


def find_parts(sublayers: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The sublayers of results.json, in running order."""
    return [_part(entry) for entry in sublayers]


def _part(entry: Mapping[str, Any]) -> Part:
    found = _NAME.fullmatch(entry["sublayer"])
    if found is None:
        raise ValueError(f"'{entry['sublayer']}' names no layer")
    left, refit = entry["heads"], entry["refit"] or {}
    return Part(
        layer=int(found[1]),
        kind=found[2],
        units=entry["units"],
        of=entry["of"],
        heads=() if left is None else tuple(i in set(left) for i in range(entry["of"])),
        predicted=small(entry["predicted_loss"]),
        before=small(refit.get("error_before")),
        after=small(refit.get("error_after")),
        note=_note(refit),
    )


def _note(refit: Mapping[str, Any]) -> str:
    """What became of a refit, in few words."""
    if not refit:
        return "not refitted"
    aligned = bool((refit["alignment"] or {}).get("accepted"))
    done = ["refitted"] if refit["accepted"] else [refit["note"]]
    return ", ".join([*done, *(["inputs aligned"] if aligned else [])])


def by_layer(parts: Sequence[Part]) -> list[tuple[int, list[Part | None]]]:
    """Layers with their sublayers of each kind that the network has, attention first; None where a layer has none."""
    kinds = [kind for kind in WORDS if any(part.kind == kind for part in parts)]
    layers: dict[int, dict[str, Part]] = {}
    for part in parts:
        layers.setdefault(part.layer, {})[part.kind] = part
    return [(number, [own.get(kind) for kind in kinds]) for number, own in layers.items()]


def totals(parts: Sequence[Part]) -> list[tuple[str, int, int]]:
    """(heads or neurons, left, of) in all layers."""
    own = {word: [part for part in parts if part.kind == kind] for kind, word in WORDS.items()}
    return [(word, sum(p.units for p in found), sum(p.of for p in found)) for word, found in own.items() if found]
