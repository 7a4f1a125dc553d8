"""What is refitted of a shrunk model. An update is a row of `UPDATES`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch.calls import Batch
from trimformer.curves.objective import reads_first_token
from trimformer.methods import Update
from trimformer.processes import decide
from trimformer.run import Run
from trimformer.update.reconstruct import reconstruct
from trimformer.update.rescale import rescale_mask
from trimformer.update.walk import Refit


@dataclass(frozen=True)
class Refitting:
    """What an update works on.

    Attributes:
        teacher: the dense model.
        student: a shrunk copy of it, changed in place.
        batches: calibration samples.
        masks: what is left of each sublayer; an update may write scales into them.
        token_norms: weights of tokens, of each sublayer and batch; empty: all weigh the same.
        milder_masks: those of the square root of the constraint, for the paper's teacher.
        run: memory and progress.
    """

    teacher: PreTrainedModel
    student: PreTrainedModel
    batches: Sequence[Batch]
    masks: list[Tensor]
    token_norms: list[list[Tensor]]
    milder_masks: Callable[[], list[Tensor]]
    run: Run


def leave(given: Refitting) -> list[Refit]:
    """Nothing."""
    return []


def scale(given: Refitting) -> list[Refit]:
    """One factor per unit (Kwon et al., section 4.3)."""
    scales, refits = rescale_mask(
        given.teacher,
        given.student,
        given.batches,
        teacher_masks=given.milder_masks(),
        first_token_last=decide(lambda: reads_first_token(given.teacher, given.batches[0])),
        run=given.run,
    )
    for mask, factors in zip(given.masks, scales, strict=True):
        mask[mask != 0] = factors.to(mask)
    return refits


def full(given: Refitting) -> list[Refit]:
    """All kept weights of the output projections, and what sublayers read."""
    norms = given.token_norms
    return reconstruct(
        given.teacher,
        given.student,
        given.batches,
        token_weights=(lambda sublayer, batch, _: norms[sublayer][batch]) if norms else None,
        run=given.run,
    )


UPDATES: dict[Update, Callable[[Refitting], list[Refit]]] = {"none": leave, "scale": scale, "full": full}
