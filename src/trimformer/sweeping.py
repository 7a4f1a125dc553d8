"""A family of models: one calibration, any number of budgets, several methods side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Metric
from trimformer.errors import TrimformerError
from trimformer.options.budgets import BudgetRequest, budgets_of
from trimformer.options.methods import DEFAULT_METHOD, AnyMethod, Layout, WholeMethod, find_methods
from trimformer.options.polish_budget import DEFAULT_BUDGET
from trimformer.polish.data import check_polish
from trimformer.refit.walk import bytes_per_student
from trimformer.results import PruningResult
from trimformer.session.session import Session

TOGETHER = 3 * 2**30  # bytes, at most, of members that are refitted in one walk, for which the dense model runs once


@dataclass(frozen=True)
class SweepMember:
    """One model of a family: a method, by the name it goes by, and a budget."""

    name: str
    method: AnyMethod
    asked: BudgetRequest

    @property
    def folder(self) -> str:
        """Where it is written, such as obs-0.5 or obs-10ms."""
        return f"{self.name}-{self.asked.name}"


class Family:
    """Models of one sweep, and their Pareto front.

    Attributes:
        members: what was asked for, in that order.
        results: of each.
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
        """One flat dictionary for each member; see docs/results.md for what the keys mean."""
        entries = [member_entry(m.folder, m.name, r.figures()) for m, r in zip(self.members, self.results, strict=True)]
        mark_front(entries, self.results[0].budget.metric)
        return [_flat(entry) for entry in entries]

    def frame(self) -> Any:
        """The same as a pandas DataFrame.

        Raises:
            TrimformerError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise TrimformerError("a frame needs pandas: pip install pandas; or take `rows()`") from error
        return pandas.DataFrame(self.rows())


def sweep(
    model: PreTrainedModel | Any,
    processor: Any,
    dataset: Any,
    constraints: Sequence[float] | None = None,
    *,
    latency_ms: Sequence[float] | None = None,
    methods: Sequence[str] = (DEFAULT_METHOD,),
    layout: Layout = "free",
    metric: Metric | None = None,
    **options: Any,
) -> Family:
    """Prunes a model to several budgets from one calibration, without retraining.

    Args:
        model: see `prune`.
        processor: see `prune`.
        dataset: see `prune`.
        constraints: shares of the cost to keep.
        latency_ms: milliseconds to keep to instead.
        methods: presets by name; all budgets are pruned to by each.
        layout: see `prune`.
        metric: see `prune`.
        **options: the other options of `prune`, but for those of a target.

    Returns:
        The models with all that is known of them.

    Raises:
        TrimformerError: the input cannot be used, or a budget cannot be reached.
    """
    metric = metric or ("mac" if latency_ms is None else "latency")
    members = members_of(methods, budgets_of(constraints, latency_ms, metric), layout)
    asked = options.get("polish_data"), options.get("polish_budget", DEFAULT_BUDGET)
    check_polish([member.method for member in members], *asked, options.get("polish_stoppable", False))
    found: dict[SweepMember, PruningResult] = {}
    session = Session(model, processor, dataset, [m.method for m in members], metric=metric, **options)
    prune_members(session, members, found.__setitem__)
    return Family(members, [found[member] for member in members])


def members_of(methods: Sequence[str], budgets: Sequence[BudgetRequest], layout: Layout = "free") -> list[SweepMember]:
    """Every method with every budget.

    Raises:
        TrimformerError: there is no method, one is unknown or comes twice.
    """
    found = find_methods(methods, layout)
    return [SweepMember(name, method, asked) for name, method in found.items() for asked in budgets]


def prune_members(
    session: Session, members: Sequence[SweepMember], done: Callable[[SweepMember, PruningResult], None]
) -> None:
    """Prunes some at a time, and hands each on when it is done. What becomes of one does not depend on the others.

    Raises:
        TrimformerError: a budget cannot be reached; told before any model is pruned.
    """
    for member in members:
        session.budget(member.method, member.asked)
    for method in dict.fromkeys(member.method for member in members):
        of_method = [member for member in members if member.method == method]
        size = at_once(session, method)
        for start in range(0, len(of_method), size):
            group = of_method[start : start + size]
            for member, result in zip(group, session.prune(method, [m.asked for m in group]), strict=True):
                done(member, result)


def at_once(session: Session, method: AnyMethod) -> int:
    """Members to prune at once: as many as memory allows; one where each takes long, as a kill loses those at work."""
    if isinstance(method, WholeMethod) or method.polish:
        return 1
    bound = min(TOGETHER, session.run.max_memory)
    return max(1, int(bound // bytes_per_student(session.model, session.data.batches)))


def member_entry(folder: str, name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """What a family says of a member, from the figures of its result."""
    budget, latency, scores = figures["budget"], figures["latency"], figures["scores"]
    return {
        "directory": folder,
        "method": name,
        "constraint": budget["constraint"],
        "asked_ms": budget["asked_ms"],
        "kept": budget["kept"],
        "scores": scores["pruned"],
        "divergence": scores["divergence"],
        "sizes": figures["sizes"]["pruned"],
        "latency_ms": latency["pruned_ms"],
        "speedup": _inverse(latency["ratio"]),
    }


def _inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    """Dense / pruned of pruned / dense."""
    ends = {"median": "median", "low": "high", "high": "low"}
    return {**{key: 1 / ratio[other] for key, other in ends.items()}, "count": ratio["count"]}


def mark_front(entries: Sequence[dict[str, Any]], metric: Metric) -> None:
    """Says of each entry whether no other is both cheaper and nearer to the dense model (`pareto`)."""

    def cost(entry: Mapping[str, Any]) -> float:
        sizes = {"mac": "macs", "parameters": "parameters"}
        return entry["latency_ms"]["median"] if metric == "latency" else entry["sizes"][sizes[metric]]

    points = [(cost(entry), entry["divergence"]) for entry in entries]
    for entry, (price, apart) in zip(entries, points, strict=True):
        entry["pareto"] = not any(p <= price and d <= apart and (p, d) != (price, apart) for p, d in points)


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One level, for a table."""
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "scores" or key == "sizes":
            flat |= value
        elif key in ("latency_ms", "speedup"):
            flat[key] = value["median"]
        else:
            flat[key] = value
    return flat
