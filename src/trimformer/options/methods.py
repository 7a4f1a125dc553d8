"""Pruning methods as points of one grid: criterion, allocation, update, objective.

The functions behind the names are in `importance/criteria.py`, `allocation/allocations.py` and `refit/updates.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from trimformer.errors import TrimformerError
from trimformer.options.checks import check_flag, shorten
from trimformer.options.option import check_options, option

Criterion = Literal["magnitude", "random", "fisher", "wanda", "flap", "angle", "obs"]
Allocation = Literal["uniform", "global", "threshold", "layers", "dp", "ffn", "plain"]
Layout = Literal["free", "ffn", "plain"]
Update = Literal["none", "bias", "scale", "full"]
Objective = Literal["labels", "curvature"]

_WITH_LOSS = ("fisher", "obs")  # criteria that differentiate a loss

_CHOICES = {"criterion": Criterion, "allocation": Allocation, "update": Update, "objective": Objective}


@dataclass(frozen=True)
class Method:
    """One point of the grid.

    Attributes:
        criterion: how units are ranked: "magnitude" (squared norm of a unit's weights), "random", "fisher" (squared
            mask gradients, then the paper's rearrangement), "wanda" (weights times norms of channels), "flap"
            (weights times fluctuation of channels), "angle" (by which a layer turns its input), or "obs" (Optimal
            Brain Surgeon).
        allocation: how the budget is shared out: "uniform" (the same share of every sublayer), "global" (the units of
            highest importance anywhere, the paper's search), "threshold" (all units above one importance, as in FLAP),
            "layers" (whole layers of least importance are removed, as in ShortGPT), "dp" (least predicted loss, by
            dynamic programming), "ffn" (the same, of neurons only: all heads stay, and some neurons in each layer), or
            "plain" (least predicted loss among the sizes that the model's own config can express: one width for all
            layers, some left out).
        update: what is refitted: "none", "bias" (what removed channels contribute on average, as in FLAP), "scale"
            (one factor per unit, the paper's rescaling), or "full" (all kept weights of the output projections, and an
            alignment of what sublayers read; with the criterion "obs", tokens are weighted by their gradients).
        objective: the loss whose gradients rank units: "labels", or "curvature", which needs no labels.
        polish: whether the result is trained, without labels, to match the dense model.
        query_heads: whether grouped-query attention may also lose query heads within key-value heads; only with the
            criterion "obs", the allocation "dp" and the update "full".
    """

    criterion: Criterion = "obs"
    allocation: Allocation = "dp"
    update: Update = "full"
    objective: Objective = "curvature"
    polish: bool = False
    query_heads: bool = False

    def __post_init__(self) -> None:
        """Checks the choices.

        Raises:
            TrimformerError: a choice is unknown, or the objective is one that the criterion does not use.
        """
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise TrimformerError(
                    f"{name} {shorten(getattr(self, name))} is unknown; known are {', '.join(get_args(kind))}"
                )
        check_flag("polish", self.polish)
        check_flag("query_heads", self.query_heads)
        if self.query_heads and (self.criterion, self.allocation, self.update) != ("obs", "dp", "full"):
            raise TrimformerError(
                "query heads need the criterion 'obs', the allocation 'dp' and the update 'full'; leave out query_heads"
            )
        if self.update == "bias" and self.allocation == "plain":
            raise TrimformerError("a plain config has no room for the biases of update 'bias'; choose another update")
        if self.objective == "labels" and not self.uses_objective:
            raise TrimformerError(
                f"criterion '{self.criterion}' uses no loss, so the objective 'labels' has no effect; leave out the "
                "objective"
            )

    @property
    def needs_labels(self) -> bool:
        """Whether the ranking reads labels."""
        return self.objective == "labels" and self.uses_objective

    @property
    def uses_objective(self) -> bool:
        """Whether the ranking uses gradients of a loss."""
        return self.criterion in _WITH_LOSS

    @property
    def uses_neuron_multiple(self) -> bool:
        """Whether the allocation keeps neurons in multiples of a number."""
        return self.allocation in ("dp", "ffn", "plain")

    @property
    def keeps_one_size(self) -> bool:
        """Whether all layers of the pruned model have one size."""
        return self.allocation in ("layers", "plain")


@dataclass(frozen=True)
class WholeMethod:
    """A method that ranks, allocates and refits in one piece, so that no part of it can be replaced."""

    name: Literal["kprune"]


AnyMethod = Method | WholeMethod

METHODS: dict[str, AnyMethod] = {
    "obs": Method(),
    "obs-labels": Method(objective="labels"),
    "obs-polish": Method(polish=True),
    "kwon2022": Method("fisher", "global", "scale", "labels"),
    "kwon2022-reconstruct": Method("fisher", "global", "full", "labels"),
    "kprune": WholeMethod("kprune"),
    "flap": Method("flap", "threshold", "bias"),
    "wanda": Method("wanda", "uniform", "none"),
    "shortgpt": Method("angle", "layers", "none"),
    "magnitude": Method("magnitude", "uniform", "none"),
    "random": Method("random", "uniform", "none"),
}

DEFAULT_METHOD = "obs"


def polishes(method: AnyMethod) -> bool:
    """Whether the method ends in a polish."""
    return isinstance(method, Method) and method.polish


def find_method(name: str, **choices: str | bool) -> AnyMethod:
    """A preset by name, with choices that replace its own.

    Raises:
        TrimformerError: the preset or a choice is unknown, or the preset accepts no choices.
    """
    if name not in METHODS:
        raise TrimformerError(f"method {shorten(name)} is unknown; known are {', '.join(METHODS)}")
    method = METHODS[name]
    if isinstance(method, WholeMethod):
        if choices:
            flags = ", ".join(f"--{choice}" for choice in choices)
            raise TrimformerError(f"method '{name}' does not accept {flags}; leave it out")
        return method
    if choices.get("criterion", "obs") not in _WITH_LOSS:  # they use no loss, so the preset's objective goes
        choices.setdefault("objective", "curvature")
    return replace(method, **choices)  # type: ignore[arg-type]


def with_layout(method: AnyMethod, layout: Layout) -> AnyMethod:
    """The method with the allocation that gives the layout.

    Raises:
        TrimformerError: the layout is unknown, or the method allocates in its own way.
    """
    if layout not in get_args(Layout):
        raise TrimformerError(f"layout {shorten(layout)} is unknown; known are {', '.join(get_args(Layout))}")
    if layout == "free":
        return method
    if isinstance(method, WholeMethod):
        raise TrimformerError(f"method '{method.name}' does not accept a layout; leave out the layout")
    return replace(method, allocation=layout)


def find_methods(names: Sequence[str], layout: Layout = "free") -> dict[str, AnyMethod]:
    """Several presets by name, with a layout.

    Raises:
        TrimformerError: the list is empty, or a name is unknown or comes twice.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TrimformerError(f"methods is {shorten(names)}; give a list of names")
    if not names:
        raise TrimformerError("the list of methods is empty; name one")
    for name in names:
        if names.count(name) > 1:
            raise TrimformerError(f"method {shorten(name)} is named twice; name each once")
    return {name: with_layout(find_method(name), layout) for name in names}


def _check_method(name: str, value: Any) -> None:
    if not isinstance(value, str | Method | WholeMethod):
        raise TrimformerError(f"{name} is {shorten(value)}; give a preset's name or a trimformer.Method")


@dataclass(frozen=True)
class MethodOptions:
    """A preset, and choices that replace its own. The choices are flags only: Python gives a `Method`."""

    method: str | AnyMethod = option(
        DEFAULT_METHOD,
        f"{', '.join(METHODS)} (default: %(default)s)",
        python_help=f"a preset's name ({', '.join(METHODS)}), or a `Method`, a point of the grid.",
        check=_check_method,
    )
    criterion: Criterion | None = option(None, "how units are ranked", choices=get_args(Criterion), keyword=False)
    allocation: Allocation | None = option(
        None, "how the budget is shared out", choices=get_args(Allocation), keyword=False
    )
    update: Update | None = option(None, "what is refitted", choices=get_args(Update), keyword=False)
    polish: bool = option(
        False,
        "train the result at the end, without labels, to match the dense model",
        check=check_flag,
        keyword=False,
    )
    query_heads: bool = option(
        False,
        "in grouped-query attention, also remove query heads within key-value heads",
        check=check_flag,
        keyword=False,
    )
    objective: Objective | None = option(
        None, "whether the ranking loss reads labels", choices=get_args(Objective), keyword=False
    )

    def __post_init__(self) -> None:
        """Checks the values and their combination.

        Raises:
            TrimformerError: a value is unknown, or the method does not accept a choice.
        """
        check_options(self)
        method = self.resolved
        if self.objective is not None and isinstance(method, Method) and not method.uses_objective:
            raise TrimformerError(f"criterion '{method.criterion}' uses no loss; leave out the objective")

    @property
    def resolved(self) -> AnyMethod:
        """The method, with the choices in place."""
        names = ("criterion", "allocation", "update", "objective", "polish", "query_heads")
        choices = {name: value for name in names if (value := getattr(self, name))}
        return find_method(self.method, **choices) if isinstance(self.method, str) else self.method


@dataclass(frozen=True)
class SweepMethodOptions:
    """The methods of a sweep."""

    methods: Sequence[str] = option(
        (DEFAULT_METHOD,),
        f"of {', '.join(METHODS)} (default: {DEFAULT_METHOD})",
        python_help="presets by name; each prunes to every budget.",
        read=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        metavar="LIST",
    )

    def __post_init__(self) -> None:
        """Checks the list.

        Raises:
            TrimformerError: it is empty, or a name is unknown or comes twice.
        """
        find_methods(self.methods)
