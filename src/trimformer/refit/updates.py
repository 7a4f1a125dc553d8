"""What is refitted of shrunk models. An update is a row of `UPDATES`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.importance.objective import reads_first_token
from trimformer.models.layer_calls import Batch
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import Update
from trimformer.refit.reconstruct import reconstruct
from trimformer.refit.rescale import rescale_mask
from trimformer.refit.result import Refit
from trimformer.utils.distributed import decide


@dataclass(frozen=True)
class UpdateInputs:
    """What an update works on: one student for each budget.

    Attributes:
        teacher: the dense model.
        students: shrunk copies of it, changed in place.
        batches: calibration samples.
        masks: of each student, what is left of each sublayer; an update may write scales into them.
        token_norms: weights of tokens, of each sublayer and batch; empty: all weigh the same.
        teacher_masks_of: of a student, those of the square root of its constraint, for the paper's teacher.
        run: memory and progress.
        without_held_out: positions of the students that are refitted without the held-out samples.
    """

    teacher: PreTrainedModel
    students: Sequence[PreTrainedModel]
    batches: Sequence[Batch]
    masks: Sequence[list[Tensor]]
    token_norms: list[list[Tensor]]
    teacher_masks_of: Callable[[int], list[Tensor]]
    run: ExecutionOptions
    without_held_out: Collection[int] = ()


def leave(given: UpdateInputs) -> list[list[Refit]]:
    """Nothing."""
    return [[] for _ in given.students]


def scale(given: UpdateInputs) -> list[list[Refit]]:
    """One factor per unit (Kwon et al., section 4.3); each student has a teacher of its own."""
    reads_first = decide(lambda: reads_first_token(given.teacher, given.batches[0]))
    reports = []
    for k, (student, masks) in enumerate(zip(given.students, given.masks, strict=True)):
        scales, refits = rescale_mask(
            given.teacher,
            student,
            given.batches,
            teacher_masks=given.teacher_masks_of(k),
            first_token_last=reads_first,
            run=given.run,
        )
        for mask, factors in zip(masks, scales, strict=True):
            mask[mask != 0] = factors.to(mask)
        reports.append(refits)
    return reports


def full(given: UpdateInputs) -> list[list[Refit]]:
    """All kept weights of the output projections, and what sublayers read."""
    norms = given.token_norms
    return reconstruct(
        given.teacher,
        given.students,
        given.batches,
        token_weights=(lambda sublayer, batch, _: norms[sublayer][batch]) if norms else None,
        without_held_out=given.without_held_out,
        run=given.run,
    )


UPDATES: dict[Update, Callable[[UpdateInputs], list[list[Refit]]]] = {"none": leave, "scale": scale, "full": full}
