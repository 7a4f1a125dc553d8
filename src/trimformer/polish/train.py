"""Polish: training a pruned model towards the dense model's outputs, kept only if held-out samples improve."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from trimformer.data.batches import count_samples
from trimformer.data.outputs import find_problem, model_output
from trimformer.models.discovery import find_layers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.options.polish import PolishBudget, epochs_of_passes, steps_of_seconds
from trimformer.polish.losses import target_divergence
from trimformer.polish.result import PolishReport
from trimformer.polish.teacher_outputs import TeacherOutputs, matching_teacher_layers, teacher_outputs
from trimformer.polish.training_loop import TrainingLoop, copy_values, write_values
from trimformer.utils.distributed import broadcast_from_main, sum_over_processes

logger = logging.getLogger(__name__)


def polish(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    *,
    budget: PolishBudget,
    kept_layers: Sequence[int] | None = None,
    accept_below: float = 1.0,
    run: ExecutionOptions | None = None,
) -> PolishReport:
    """Trains the student in place towards the dense model's outputs and hidden states.

    Sizes and embeddings stay as they are. The weights are restored if the held-out divergence does not fall.

    Args:
        teacher: the dense model; left unchanged.
        student: a shrunk copy of the teacher. Half-precision weights are trained in float32 and rounded at the end.
        batches: this process's part of the samples to train on; every process has as many batches.
        held_out: this process's part of the held-out samples.
        budget: forward passes or seconds to spend at most.
        kept_layers: indices of the dense model's layers that the student has; None for all.
        accept_below: the student is accepted if the held-out divergence falls below this share of its old value.
        run: `max_memory` bounds the dense model's outputs in memory; beyond it they go to temporary files.

    Raises:
        TrimformerError: the budget pays for less than one epoch.
    """
    run = run or ExecutionOptions()
    start = time.perf_counter()
    share = _layer_parameters(student) / _layer_parameters(teacher)
    steps = 0 if budget.passes is None else math.floor(epochs_of_passes(budget, share) * len(batches))
    layers = matching_teacher_layers(teacher, kept_layers)
    with (
        teacher_outputs(teacher, batches, run, layers) as targets,
        teacher_outputs(teacher, held_out, run) as references,
    ):
        teacher_seconds = time.perf_counter() - start
        measure, original = partial(_measure, student, held_out, references, run), copy_values(student.parameters())
        before = measure()
        with frozen(student), in_float32(student):
            for parameter in trainable(student):
                parameter.requires_grad_(True)
            loop = TrainingLoop(student, batches, targets, measure, before, run)
            if budget.seconds is not None:
                steps = _affordable_steps(loop, budget, start)
            history, steps_taken, note = loop.train(steps, stoppable=budget.stoppable)
            student.zero_grad(set_to_none=True)
        after = measure()
    accepted = after < accept_below * before
    if not accepted:
        write_values(student.parameters(), original)
        gain = "nothing" if after >= before else "too little"
        after = before
        rejection = f"held-out samples gained {gain}, so the model is as it was pruned"
        note = f"{note}; {rejection}" if note else rejection
    logger.info("polish: held-out divergence %.4g -> %.4g after %d steps", before, after, steps_taken)
    samples = torch.tensor([count_samples(batches), count_samples(held_out)], device=student.device)
    sum_over_processes(samples)
    return PolishReport(
        samples=int(samples[0]),
        held_out=int(samples[1]),
        steps=steps_taken,
        epochs=steps_taken / len(batches),
        before=before,
        after=after,
        history=history,
        accepted=accepted,
        note=note,
        forward_passes=(time.perf_counter() - start) / max(teacher_seconds, 1e-9),
    )


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Context manager that holds half-precision weights in float32, because halves are too coarse for small steps."""
    halves = [
        (t, t.dtype) for t in (*model.parameters(), *model.buffers()) if t.dtype in (torch.float16, torch.bfloat16)
    ]
    for tensor, _ in halves:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in halves:
            tensor.data = tensor.data.to(dtype)


def trainable(model: PreTrainedModel) -> list[nn.Parameter]:
    """Returns all parameters but those of embeddings and of the convolutions that embed images and sounds."""
    excluded = {
        id(parameter)
        for module in model.modules()
        if type(module).__name__.endswith(("Embedding", "Embeddings")) or isinstance(module, nn.modules.conv._ConvNd)
        for parameter in module.parameters()
    }
    return [parameter for parameter in model.parameters() if id(parameter) not in excluded]


def _affordable_steps(loop: TrainingLoop, budget: PolishBudget, start: float) -> int:
    """Returns the steps that the rest of a budget in seconds pays for, the same number in every process."""
    per_step, afterwards = loop.measure_seconds()
    assert budget.seconds is not None
    seconds_left = budget.seconds - (time.perf_counter() - start) - afterwards
    return broadcast_from_main(lambda: steps_of_seconds(budget, seconds_left, per_step, len(loop.batches)))


@torch.no_grad()
def _measure(
    student: PreTrainedModel, batches: Sequence[Batch], references: TeacherOutputs, run: ExecutionOptions
) -> float:
    """Returns the mean divergence from the dense model over the samples of all processes."""
    problem = find_problem(student)
    sums = torch.zeros(2, dtype=torch.float64, device=student.device)  # divergence, samples
    with frozen(student), run.precision(student.device):
        for i, batch in enumerate(batches):
            output = model_output(student, batch, problem)
            divergences = target_divergence(output, references[i][0], batch, problem)  # [samples]
            sums += torch.stack([divergences.double().sum(), sums.new_tensor(len(divergences))])
    sum_over_processes(sums)
    return float(sums[0] / sums[1])


def _layer_parameters(model: PreTrainedModel) -> int:
    """Returns the number of parameters in the model's layers, to which their MACs are proportional."""
    return sum(parameter.numel() for layer in find_layers(model) for parameter in layer.parameters())
