"""The quality that a pruned model is to keep."""

from dataclasses import dataclass
from typing import Any, Literal

from trimformer.errors import TrimformerError
from trimformer.options.checks import check_numbers

LEAST = 1e-6  # a divergence that is no rounding error


@dataclass(frozen=True)
class QualityTarget:
    """The quality to keep.

    Attributes:
        kind: "drop" of the task's main score, in points, or mean "divergence" of the outputs from the dense model's.
        most: that is allowed of it.
    """

    kind: Literal["drop", "divergence"]
    most: float

    def __post_init__(self) -> None:
        """Raises:
        TrimformerError: nothing that can be told, or anything, would be allowed.
        """
        name = f"max_{self.kind}"
        check_numbers(**{name: self.most})
        if self.kind == "divergence" and self.most < LEAST:
            raise TrimformerError(f"{name} {self.most:g} is below what float32 can tell; give {LEAST:g} at least")


def target_of(max_drop: Any, max_divergence: Any) -> QualityTarget | None:
    """The quality to keep, where one is asked for.

    Raises:
        TrimformerError: two are given, or one that is no positive number.
    """
    if max_drop is not None and max_divergence is not None:
        raise TrimformerError("max_drop and max_divergence are two targets; give one of them")
    if max_drop is not None:
        return QualityTarget("drop", max_drop)
    return None if max_divergence is None else QualityTarget("divergence", max_divergence)
