"""Pruning methods as points of one grid: what ranks units, what shares out the budget, what is refitted."""

from dataclasses import dataclass
from typing import Literal

from trimformer.errors import TrimformerError
from trimformer.fisher import Objective

Criterion = Literal["magnitude", "random", "fisher", "obs"]
Allocation = Literal["uniform", "global", "dp"]
Update = Literal["none", "scale", "full"]


@dataclass(frozen=True)
class Method:
    """One point of the grid.

    Attributes:
        criterion: "magnitude" (squared norm of a unit's weights), "random", "fisher" (squared mask
            gradients, then the paper's rearrangement), "obs" (Optimal Brain Surgeon).
        allocation: "uniform" (the same share of every sublayer), "global" (the units of highest
            importance anywhere, the paper's search), "dp" (least predicted loss, dynamic programming).
        update: "none", "scale" (one factor per unit, the paper's rescaling), "full" (all kept weights
            of the output projections).
        objective: "labels", or "curvature", which needs none.
    """

    criterion: Criterion = "obs"
    allocation: Allocation = "dp"
    update: Update = "full"
    objective: Objective = "curvature"


METHODS = {
    "obs": Method(),
    "kwon2022": Method("fisher", "global", "scale", "labels"),
    "kwon2022-reconstruct": Method("fisher", "global", "full", "labels"),
    "magnitude": Method("magnitude", "uniform", "none"),
    "random": Method("random", "uniform", "none"),
}

DEFAULT_METHOD = "obs"


def find_method(name: str) -> Method:
    """A preset by name.

    Raises:
        TrimformerError: there is no such preset.
    """
    if name not in METHODS:
        raise TrimformerError(f"method '{name}' is unknown; known are {', '.join(METHODS)}")
    return METHODS[name]
