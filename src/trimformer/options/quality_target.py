"""The quality that a pruned model must keep."""

from dataclasses import dataclass
from typing import Literal

from trimformer.errors import TrimformerError
from trimformer.options.checks import Number

SMALLEST_DIVERGENCE = 1e-6  # below this, float32 rounding dominates

TargetKind = Literal["drop", "divergence", "perplexity"]

_RANGES = {
    "drop": Number(0, 99, whole=False, open=True),
    "divergence": Number(0, 1e300, whole=False, open=True),
    "perplexity": Number(1, 1e300, whole=False, open=True),
}


@dataclass(frozen=True)
class QualityTarget:
    """The quality to keep.

    Attributes:
        kind: "drop" of the task's main score, in points, mean "divergence" of the outputs from the dense model's, or
            "perplexity" as a ratio to the dense model's.
        most: the largest allowed value.
    """

    kind: TargetKind
    most: float

    def __post_init__(self) -> None:
        """Checks the allowed value.

        Raises:
            TrimformerError: it is out of range, or below what float32 can resolve.
        """
        name = f"max_{self.kind}"
        _RANGES[self.kind].check(self.most, name)
        if self.kind == "divergence" and self.most < SMALLEST_DIVERGENCE:
            raise TrimformerError(
                f"{name} {self.most:g} is below what float32 can tell; give {SMALLEST_DIVERGENCE:g} at least"
            )
