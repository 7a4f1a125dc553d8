"""Pruning methods as points of one grid: what ranks units, what shares out the budget, what is refitted.

The functions behind the names stand in `importance/criteria.py`, `allocation/allocations.py` and `refit/updates.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from trimformer.errors import TrimformerError

Criterion = Literal["magnitude", "random", "fisher", "obs"]
Allocation = Literal["uniform", "global", "dp", "plain"]
Layout = Literal["free", "plain"]
Update = Literal["none", "scale", "full"]
Objective = Literal["labels", "curvature"]

_CHOICES = {"criterion": Criterion, "allocation": Allocation, "update": Update, "objective": Objective}


@dataclass(frozen=True)
class Method:
    """One point of the grid.

    Attributes:
        criterion: "magnitude" (squared norm of a unit's weights), "random", "fisher" (squared mask
            gradients, then the paper's rearrangement), "obs" (Optimal Brain Surgeon).
        allocation: "uniform" (the same share of every sublayer), "global" (the units of highest
            importance anywhere, the paper's search), "dp" (least predicted loss, dynamic programming), "plain"
            (least predicted loss of what the model's own config can say: one width for all layers, some left out).
        update: "none", "scale" (one factor per unit, the paper's rescaling), "full" (all kept weights
            of the output projections, and what sublayers read aligned; where the criterion is "obs", tokens weigh by
            their gradients).
        objective: "labels", or "curvature", which needs none.
        polish: train the result, without labels, on what the dense model says.
    """

    criterion: Criterion = "obs"
    allocation: Allocation = "dp"
    update: Update = "full"
    objective: Objective = "curvature"
    polish: bool = False

    def __post_init__(self) -> None:
        """Raises:
        TrimformerError: a choice is unknown.
        """
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise TrimformerError(
                    f"{name} '{getattr(self, name)}' is unknown; known are {', '.join(get_args(kind))}"
                )


@dataclass(frozen=True)
class WholeMethod:
    """A method that ranks, shares out and refits in its own way, in one piece."""

    name: Literal["kprune"]


AnyMethod = Method | WholeMethod

METHODS: dict[str, AnyMethod] = {
    "obs": Method(),
    "obs-labels": Method(objective="labels"),
    "obs-polish": Method(polish=True),
    "kwon2022": Method("fisher", "global", "scale", "labels"),
    "kwon2022-reconstruct": Method("fisher", "global", "full", "labels"),
    "kprune": WholeMethod("kprune"),
    "magnitude": Method("magnitude", "uniform", "none"),
    "random": Method("random", "uniform", "none"),
}

DEFAULT_METHOD = "obs"


def find_method(name: str, **choices: str | bool) -> AnyMethod:
    """A preset by name, with choices that replace its own.

    Raises:
        TrimformerError: there is no such preset or choice, or the preset has none.
    """
    if name not in METHODS:
        raise TrimformerError(f"method '{name}' is unknown; known are {', '.join(METHODS)}")
    method = METHODS[name]
    if isinstance(method, WholeMethod):
        if choices:
            raise TrimformerError(f"method '{name}' is of one piece; leave out {', '.join(choices)}")
        return method
    return replace(method, **choices)  # type: ignore[arg-type]


def with_layout(method: AnyMethod, layout: Layout) -> AnyMethod:
    """The method, its budget shared out so that the layout comes of it.

    Raises:
        TrimformerError: there is no such layout, or the method shares out in its own way.
    """
    if layout not in get_args(Layout):
        raise TrimformerError(f"layout '{layout}' is unknown; known are {', '.join(get_args(Layout))}")
    if layout == "free":
        return method
    if isinstance(method, WholeMethod):
        raise TrimformerError(f"method '{method.name}' is of one piece and knows no layout; leave out the layout")
    return replace(method, allocation="plain")


def find_methods(names: Sequence[str], layout: Layout) -> dict[str, AnyMethod]:
    """Several presets by name, laid out.

    Raises:
        TrimformerError: there is none, one is unknown or comes twice.
    """
    if not names or len(set(names)) < len(names):
        raise TrimformerError(f"the list of methods ({', '.join(names) or 'empty'}) must name each once, and one")
    return {name: with_layout(find_method(name), layout) for name in names}
