"""Updates of shrunk models: none, biases, one scale per unit, or a full refit. `UPDATES` lists them by name."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.shrink import record_widths
from trimformer.importance.activations import channel_statistics
from trimformer.importance.objective import reads_first_token
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.linear import add_to_bias, matrix
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import Update
from trimformer.refit.reconstruct import reconstruct
from trimformer.refit.rescale import rescale_mask
from trimformer.refit.result import Refit
from trimformer.utils.distributed import broadcast_from_main


@dataclass(frozen=True)
class UpdateInputs:
    """Inputs of an update: the dense model and one student per budget.

    Attributes:
        teacher: the dense model.
        students: shrunk copies of the teacher, changed in place.
        batches: calibration samples.
        masks: each student's masks, one per sublayer; an update may write scales into them.
        token_norms: weights of tokens per sublayer and batch; empty if all tokens weigh the same.
        dense_outputs: see `Ranking`.
        teacher_masks_of: returns the masks of the paper's teacher for a student, at the square root of its constraint.
        run: memory limit and progress.
        without_held_out: positions of the students that are refitted without the held-out samples.
    """

    teacher: PreTrainedModel
    students: Sequence[PreTrainedModel]
    batches: Sequence[Batch]
    masks: Sequence[list[Tensor]]
    token_norms: list[list[Tensor]]
    dense_outputs: list[list[Tensor]]
    teacher_masks_of: Callable[[int], list[Tensor]]
    run: ExecutionOptions
    without_held_out: Collection[int] = ()


def keep_weights(inputs: UpdateInputs) -> list[list[Refit]]:
    """Changes nothing."""
    return [[] for _ in inputs.students]


def add_biases(inputs: UpdateInputs) -> list[list[Refit]]:
    """Adds what the removed channels contribute on average to the projections' biases (FLAP, section 3.4)."""
    sources = find_sublayers(inputs.teacher)
    channels = channel_statistics(inputs.teacher, inputs.run.progress(inputs.batches, "means"))
    for student, masks in zip(inputs.students, inputs.masks, strict=True):
        for source, sublayer, mask, values in zip(sources, find_sublayers(student), masks, channels, strict=True):
            removed = (mask == 0).to(values.mean.device).repeat_interleave(source.unit_size)
            shift = matrix(source.projection).double() @ (values.mean * removed)  # [hidden]
            if removed.any():
                add_to_bias(sublayer.projection, shift)
        record_widths(student)
    return [[] for _ in inputs.students]


def scale_units(inputs: UpdateInputs) -> list[list[Refit]]:
    """Fits one scale per unit (Kwon et al., section 4.3); each student has its own teacher."""
    reads_first = broadcast_from_main(lambda: reads_first_token(inputs.teacher, inputs.batches[0]))
    reports = []
    for k, (student, masks) in enumerate(zip(inputs.students, inputs.masks, strict=True)):
        scales, refits = rescale_mask(
            inputs.teacher,
            student,
            inputs.batches,
            teacher_masks=inputs.teacher_masks_of(k),
            first_token_last=reads_first,
            run=inputs.run,
        )
        for mask, factors in zip(masks, scales, strict=True):
            mask[mask != 0] = factors.to(mask)
        reports.append(refits)
    return reports


def refit_fully(inputs: UpdateInputs) -> list[list[Refit]]:
    """Refits all kept weights of the output projections and aligns the inputs of sublayers."""
    norms = inputs.token_norms
    return reconstruct(
        inputs.teacher,
        inputs.students,
        inputs.batches,
        token_weights=(lambda sublayer, batch, _: norms[sublayer][batch]) if norms else None,
        teacher_outputs=inputs.dense_outputs,
        without_held_out=inputs.without_held_out,
        run=inputs.run,
    )


UPDATES: dict[Update, Callable[[UpdateInputs], list[list[Refit]]]] = {
    "none": keep_weights,
    "bias": add_biases,
    "scale": scale_units,
    "full": refit_fully,
}
