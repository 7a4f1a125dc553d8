"""Pruning methods as points of one grid: what ranks units, what shares out the budget, what is refitted."""

from dataclasses import dataclass
from typing import Literal, get_args

from trimformer.errors import TrimformerError

Criterion = Literal["magnitude", "random", "fisher", "obs", "kprune"]
Allocation = Literal["uniform", "global", "dp"]
Update = Literal["none", "scale", "full"]
Objective = Literal["labels", "curvature"]


@dataclass(frozen=True)
class Method:
    """One point of the grid.

    Attributes:
        criterion: "magnitude" (squared norm of a unit's weights), "random", "fisher" (squared mask
            gradients, then the paper's rearrangement), "obs" (Optimal Brain Surgeon), "kprune" (K-prune,
            whose loop over sublayers shares out and refits in its own way: it goes with "global" and "full").
        allocation: "uniform" (the same share of every sublayer), "global" (the units of highest
            importance anywhere, the paper's search), "dp" (least predicted loss, dynamic programming).
        update: "none", "scale" (one factor per unit, the paper's rescaling), "full" (all kept weights
            of the output projections, and what sublayers read aligned; where the criterion is "obs", tokens weigh by
            their gradients).
        objective: "labels", or "curvature", which needs none.
    """

    criterion: Criterion = "obs"
    allocation: Allocation = "dp"
    update: Update = "full"
    objective: Objective = "curvature"

    def __post_init__(self) -> None:
        """Raises:
        TrimformerError: a choice is unknown, or does not go with the others.
        """
        choices = {"criterion": Criterion, "allocation": Allocation, "update": Update, "objective": Objective}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise TrimformerError(
                    f"{name} '{getattr(self, name)}' is unknown; known are {', '.join(get_args(kind))}"
                )
        if self.criterion == "kprune" and (self.allocation, self.update) != ("global", "full"):
            raise TrimformerError("criterion 'kprune' goes only with allocation 'global' and update 'full'")


METHODS = {
    "obs": Method(),
    "obs-labels": Method(objective="labels"),
    "kwon2022": Method("fisher", "global", "scale", "labels"),
    "kwon2022-reconstruct": Method("fisher", "global", "full", "labels"),
    "kprune": Method("kprune", "global", "full"),
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
