"""A sweep: one calibration, any number of budgets, several methods side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimformer.errors import TrimformerError
from trimformer.options.budgets import BudgetRequest
from trimformer.options.choices import Metric
from trimformer.options.methods import AnyMethod, Layout, WholeMethod, find_methods
from trimformer.refit.walk import bytes_per_student
from trimformer.results import PruningResult
from trimformer.session.prune_to import budget_for, prune_to, pruner_for
from trimformer.session.setup import Session

_GROUP_MEMORY = 3 * 2**30  # most bytes of the members that are refitted together, so that the dense model runs once


@dataclass(frozen=True)
class SweepMember:
    """One model of a sweep.

    Attributes:
        name: of the method's preset.
        method: the method.
        request: the budget.
    """

    name: str
    method: AnyMethod
    request: BudgetRequest

    @property
    def folder(self) -> str:
        """Name of its folder, such as obs-0.5 or obs-10ms."""
        return f"{self.name}-{self.request.name}"


class SweepResult:
    """The models of a sweep, in the order of the request.

    Attributes:
        members: method and budget of each model.
        results: what came of each.
    """

    def __init__(self, members: Sequence[SweepMember], results: Sequence[PruningResult]) -> None:
        self.members, self.results = list(members), list(results)

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[PruningResult]:
        return iter(self.results)

    def __getitem__(self, i: int) -> PruningResult:
        return self.results[i]

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary per member; docs/results.md explains the keys."""
        figures = [result.figures() for result in self.results]
        if any(each["latency"] is None for each in figures):
            raise TrimformerError("only the main process of a distributed run measures; take the rows there")
        dense_ms = dense_latency(figures)["median"]
        entries = [member_entry(m.folder, m.name, f, dense_ms) for m, f in zip(self.members, figures, strict=True)]
        mark_front(entries, self.results[0].budget.metric)
        return [_flat(entry) for entry in entries]

    def frame(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            TrimformerError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise TrimformerError("a frame needs pandas: pip install pandas; or take `rows()`") from error
        return pandas.DataFrame(self.rows())


Family = SweepResult  # an earlier name, which stays


def sweep_members(
    methods: Sequence[str], requests: Sequence[BudgetRequest], layout: Layout = "free"
) -> list[SweepMember]:
    """Every method with every budget.

    Raises:
        TrimformerError: there is no method, or one is unknown or comes twice.
    """
    presets = find_methods(methods, layout)
    return [SweepMember(name, method, request) for name, method in presets.items() for request in requests]


def prune_members(
    session: Session, members: Sequence[SweepMember], done: Callable[[SweepMember, PruningResult], None]
) -> None:
    """Prunes several members at a time and calls `done` with each. The result of one does not depend on the others.

    Raises:
        TrimformerError: a budget cannot be reached; raised before any model is pruned.
    """
    for member in members:
        budget_for(session, member.method, member.request)
    for method in dict.fromkeys(member.method for member in members):
        of_method = [member for member in members if member.method == method]
        size = _group_size(session, method)
        for start in range(0, len(of_method), size):
            group = of_method[start : start + size]
            results = prune_to(session, method, [member.request for member in group])
            for member, result in zip(group, results, strict=True):
                done(member, result)


def _group_size(session: Session, method: AnyMethod) -> int:
    """Members to prune at once: as many as memory allows.

    It is one where each takes long, because a killed sweep loses the members in progress.
    """
    if isinstance(method, WholeMethod) or method.polish:
        return 1
    bound = min(_GROUP_MEMORY, session.execution.max_memory - pruner_for(session, method).output_bytes)
    return max(1, int(bound // bytes_per_student(session.model, session.samples.calibration.batches)))


def dense_latency(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the latency of the dense model in ms when the machine was fastest, from the figures of all members."""
    return min((figures["latency"]["dense_ms"] for figures in results), key=lambda timing: timing["median"])


def member_entry(folder: str, name: str, figures: Mapping[str, Any], dense_ms: float) -> dict[str, Any]:
    """Returns the entry of a member in the sweep's record.

    Args:
        folder: name of the member's folder.
        name: name of the method.
        figures: of the member's result. It was timed in turns with the dense model, at another time than other members.
        dense_ms: latency of the dense model at which the latencies of all members are counted.
    """
    budget, latency, scores = figures["budget"], figures["latency"], figures["scores"]
    return {
        "directory": folder,
        "method": name,
        "constraint": budget["constraint"],
        "asked_ms": budget["asked_ms"],
        "kept": budget["kept"],
        "missed": budget.get("missed", False),
        "scores": scores["pruned"],
        "divergence": scores["divergence"],
        "sizes": figures["sizes"]["pruned"],
        "latency_ms": {key: value * (1 if key == "count" else dense_ms) for key, value in latency["ratio"].items()},
        "speedup": _inverse(latency["ratio"]),
    }


def _inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    """Turns the ratio pruned / dense into dense / pruned."""
    ends = {"median": "median", "low": "high", "high": "low"}
    return {**{key: 1 / ratio[other] for key, other in ends.items()}, "count": ratio["count"]}


def mark_front(entries: Sequence[dict[str, Any]], metric: Metric) -> None:
    """Sets `pareto` of each entry: whether no other is both cheaper and nearer to the dense model."""

    def cost(entry: Mapping[str, Any]) -> float:
        sizes = {"mac": "macs", "parameters": "parameters"}
        if metric == "memory":
            return entry["kept"]
        return entry["latency_ms"]["median"] if metric == "latency" else entry["sizes"][sizes[metric]]

    points = [(cost(entry), entry["divergence"]) for entry in entries]
    for entry, (own_cost, own_divergence) in zip(entries, points, strict=True):
        entry["pareto"] = not any(
            c <= own_cost and d <= own_divergence and (c, d) != (own_cost, own_divergence) for c, d in points
        )


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry as one level of keys, for a table."""
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "scores" or key == "sizes":
            flat |= value
        elif key in ("latency_ms", "speedup"):
            flat[key] = value["median"]
        else:
            flat[key] = value
    return flat
