"""The pruned network, layer by layer, with each sublayer's predicted loss and measured refit error."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimformer.models import Sublayer
from trimformer.refit.result import Refit
from trimformer.reporting.figures import Figure, significant
from trimformer.results import PruningResult

UNIT_NAMES = {"attention": "heads", "ffn": "neurons"}


@dataclass(frozen=True)
class SublayerReport:
    """One pruned sublayer.

    Attributes:
        layer: number of its layer.
        kind: "attention" or "ffn".
        units: number of units kept.
        total: number of units before pruning.
        heads: whether each head is kept; empty for neurons.
        predicted: loss increase by its curve; None without curves.
        before: error of its output before the refit; None without a refit.
        after: the same after the refit.
        note: outcome of the refit.
    """

    layer: int
    kind: str
    units: int
    total: int
    heads: tuple[bool, ...]
    predicted: Figure | None
    before: Figure | None
    after: Figure | None
    note: str

    @property
    def unit_name(self) -> str:
        """Name of its units."""
        return UNIT_NAMES[self.kind]

    @property
    def removed_heads(self) -> list[int]:
        """Indices of the removed heads."""
        return [i for i, is_kept in enumerate(self.heads) if not is_kept]

    @property
    def percent(self) -> float:
        """Percentage of units kept."""
        return 100 * self.units / max(self.total, 1)


def sublayer_reports(result: PruningResult, sublayers: Sequence[Sublayer]) -> list[SublayerReport]:
    """Describes every sublayer of a pruned model, in running order.

    Args:
        result: of the run.
        sublayers: of the dense model, one for each mask.
    """
    reports = []
    for i, (sublayer, mask) in enumerate(zip(sublayers, result.masks, strict=True)):
        kept = tuple(bool(value) for value in mask.tolist())
        refit = result.refits[i] if result.refits else None
        reports.append(
            SublayerReport(
                layer=sublayer.layer,
                kind=sublayer.kind,
                units=sum(kept),
                total=len(kept),
                heads=kept if sublayer.kind == "attention" else (),
                predicted=significant(result.predicted[i] if result.predicted else None),
                before=significant(refit.error_before if refit else None),
                after=significant(refit.error_after if refit else None),
                note=_note(refit),
            )
        )
    return reports


def _note(refit: Refit | None) -> str:
    """Describes the outcome of a refit in a few words."""
    if refit is None:
        return "not refitted"
    aligned = refit.alignment is not None and refit.alignment.accepted
    return ", ".join([*(["refitted"] if refit.accepted else [refit.note]), *(["inputs aligned"] if aligned else [])])


def by_layer(reports: Sequence[SublayerReport]) -> list[tuple[int, list[SublayerReport | None]]]:
    """Groups sublayers by layer, attention first; None where a layer lacks a kind that others have."""
    kinds = [kind for kind in UNIT_NAMES if any(report.kind == kind for report in reports)]
    layers: dict[int, dict[str, SublayerReport]] = {}
    for report in reports:
        layers.setdefault(report.layer, {})[report.kind] = report
    return [(number, [layer.get(kind) for kind in kinds]) for number, layer in layers.items()]


def totals(reports: Sequence[SublayerReport]) -> list[tuple[str, int, int]]:
    """Returns (unit name, units kept, units before pruning) of all layers together, for each kind in the network."""
    sums = []
    for kind, name in UNIT_NAMES.items():
        chosen = [report for report in reports if report.kind == kind]
        if chosen:
            sums.append((name, sum(r.units for r in chosen), sum(r.total for r in chosen)))
    return sums
