"""Result of refitting one sublayer."""

from dataclasses import dataclass


@dataclass
class Refit:
    """Result of refitting one sublayer.

    Errors are weighted means over tokens of the squared error of the projection's output, or of an aligned input: of
    held-out samples with the update "full", of all calibration samples otherwise.

    Attributes:
        sublayer: name of the sublayer.
        units: number of units kept.
        accepted: whether the weights were changed.
        error_before: error of the weights before the refit.
        error_after: error after it. The update "full" measures it before the fit is repeated on all samples; equal to
            `error_before` if the refit was rejected.
        ridge: relative ridge that was used; None without a ridge.
        note: reason why the weights were left unchanged; empty otherwise.
        alignment: result of aligning the sublayer's input with the teacher's, if it was aligned.
    """

    sublayer: str
    units: int
    accepted: bool
    error_before: float
    error_after: float
    ridge: float | None = None
    note: str = ""
    alignment: "Refit | None" = None
