"""Result of a polish."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PolishReport:
    """Result of a polish.

    Divergences are means over the held-out samples; see `trimformer.data.outputs.divergence`.

    Attributes:
        samples: number of samples trained on.
        held_out: number of held-out samples.
        steps: number of training steps.
        epochs: number of passes over the training samples.
        before: divergence before the polish. If few samples are new, the polish starts from a refit without the
            held-out ones; see docs/method.md.
        after: divergence after the polish; equal to `before` if the polish was rejected.
        history: divergence at the end of each epoch.
        accepted: whether the weights were changed.
        note: reason why the polish was rejected or ended early; empty otherwise.
        forward_passes: cost in forward passes of the dense model over the polish samples.
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
        result = f"divergence of held-out samples {self.before:.4f} -> {self.after:.4f}" if self.accepted else self.note
        return f"polish cost {cost}: {result}" + (f" ({self.note})" if self.accepted and self.note else "")
