"""What became of a polish."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PolishReport:
    """Divergences are means over the held-out samples, as `batches.output.divergence` counts them.

    Attributes:
        samples: that were trained on.
        held_out: samples that were set aside to measure on.
        steps: training steps that were taken.
        epochs: the same in passes over the samples.
        before: divergence of the model as it was pruned.
        after: of the model as it is now; `before` where nothing was gained.
        history: divergence at the end of each epoch.
        accepted: whether the weights were changed.
        note: why nothing was changed, or why training ended early; or empty.
        forward_passes: what it cost, in forward passes of the dense model over the polish samples.
    """

    samples: int
    held_out: int
    steps: int
    epochs: float
    before: float
    after: float
    history: list[float] = field(default_factory=list)
    accepted: bool = True
    note: str = ""
    forward_passes: float = 0.0

    def __str__(self) -> str:
        cost = f"{self.forward_passes:.1f} forward passes over {self.samples + self.held_out:,} unlabelled samples"
        told = f"divergence of held-out samples {self.before:.4f} -> {self.after:.4f}" if self.accepted else self.note
        return f"polish cost {cost}: {told}" + (f" ({self.note})" if self.accepted and self.note else "")
