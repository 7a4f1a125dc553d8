"""A pruned model trained on what the dense model says, without labels, and kept only where held-out samples gain.

The loop is our own: Transformers' Trainer would pad every sample anew each epoch and has no place for stored answers.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.batches import count_samples
from trimformer.data.outputs import Problem, divergence, find_problem, model_output
from trimformer.models.discovery import find_layers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.options.polish import PolishBudget, epochs_of_passes, steps_of_seconds
from trimformer.polish.losses import hidden_loss, output_loss
from trimformer.polish.result import PolishReport
from trimformer.polish.teacher_outputs import Targets, Watch, matching_teacher_layers, targets_of
from trimformer.utils.distributed import add_up, decide, world_size

logger = logging.getLogger(__name__)

LEARNING_RATE = 1e-3  # of a long training
LONG = 2000  # steps; fewer cannot make up for what large ones spoil at first, so the rate falls in proportion
NEAR = 0.023  # a divergence; where less is left to mend, large steps spoil more, so the rate falls in proportion too
WARM_UP = 0.06  # share of the steps
HIDDEN_WEIGHT = 4.0
MAX_NORM = 1.0
PARTS = (0.75, 0.5, 0.25)  # of the way from the pruned to the trained weights

_PROBES = 4  # steps that are timed for a budget in seconds


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

    Its sizes stay, its embeddings too, and it is never left further from the dense model than it was, as the held-out
    samples see it.

    Args:
        teacher: the dense model, left as it was.
        student: a shrunk copy of it; weights of halves are trained in float32 and rounded at the end.
        batches: samples to train on, this process's part; as many in every process.
        held_out: samples to measure on, this process's part.
        budget: passes or seconds to spend at most.
        kept_layers: indices of the dense model's layers that the student has; None: all.
        accept_below: the held-out divergence must fall below this share of what it was.
        run: bounds the memory of the dense model's answers, which go to temporary files beyond it.

    Raises:
        TrimformerError: the budget pays for less than one epoch.
    """
    run = run or ExecutionOptions()
    start = time.perf_counter()
    share = _weights(student) / _weights(teacher)
    steps = 0 if budget.passes is None else math.floor(epochs_of_passes(budget, share) * len(batches))
    layers = matching_teacher_layers(teacher, kept_layers)
    with targets_of(teacher, batches, run, layers) as targets, targets_of(teacher, held_out, run) as answers:
        teacher_seconds = time.perf_counter() - start
        measure, original = partial(_measure, student, held_out, answers, run), _state(student.parameters())
        before = measure()
        with frozen(student), in_float32(student):
            for parameter in trainable(student):
                parameter.requires_grad_(True)
            training = _Training(student, batches, targets, measure, before, run)
            if budget.seconds is not None:
                steps = _affordable(training, budget, start)
            history, taken, note = training.train(steps, stoppable=budget.stoppable)
            student.zero_grad(set_to_none=True)
        after = measure()
    accepted = after < accept_below * before
    if not accepted:
        _restore(student.parameters(), original)
        gained = "nothing" if after >= before else "too little"
        after = before
        told = f"held-out samples gained {gained}, so the model is as it was pruned"
        note = f"{note}; {told}" if note else told
    logger.info("polish: held-out divergence %.4g -> %.4g after %d steps", before, after, taken)
    totals = torch.tensor([count_samples(batches), count_samples(held_out)], device=student.device)
    add_up(totals)
    return PolishReport(
        samples=int(totals[0]),
        held_out=int(totals[1]),
        steps=taken,
        epochs=taken / len(batches),
        before=before,
        after=after,
        history=history,
        accepted=accepted,
        note=note,
        forward_passes=(time.perf_counter() - start) / max(teacher_seconds, 1e-9),
    )


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Weights of halves are in float32 inside: they are too coarse for small steps."""
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
    """All parameters but those of embeddings, and of the convolutions that make them of images and sounds."""
    kept_out = {
        id(parameter)
        for module in model.modules()
        if type(module).__name__.endswith(("Embedding", "Embeddings")) or isinstance(module, nn.modules.conv._ConvNd)
        for parameter in module.parameters()
    }
    return [parameter for parameter in model.parameters() if id(parameter) not in kept_out]


class _Training:
    """One training run.

    Args:
        student: its trainable parameters require gradients.
        batches: to train on.
        targets: the dense model's answers to these.
        measure: divergence of the student as it is, on held-out samples.
        before: what it measures at first.
        run: seed and progress.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        batches: Sequence[Batch],
        targets: Targets,
        measure: Callable[[], float],
        before: float,
        run: ExecutionOptions,
    ) -> None:
        self._student, self.batches, self._targets, self._run = student, batches, targets, run
        self.measure, self._problem = measure, find_problem(student)
        self._peak = peak_rate(self._problem, before)
        self._parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]

    def train(self, steps: int, *, stoppable: bool = False) -> tuple[list[float], int, str]:
        """Takes so many steps and leaves the student as it was at the end of its best epoch, or part of the way there.

        Args:
            steps: to take.
            stoppable: Ctrl-C ends it as if these were all.

        Returns:
            Divergence after each epoch, steps that were taken, and why it ended early.
        """
        start, history = _state(self._parameters), list[float]()
        best = start
        optimizer, order, epoch = self._optimizer(0.0), list[int](), len(self.batches)
        generator = np.random.default_rng(self._run.seed)
        note, step = "", 0
        with Watch(self._student, find_layers(self._student)) as watch, _pressed(stoppable) as pressed:
            for step in self._run.progress(range(1, steps + 1), "polish"):
                order = order or generator.permutation(epoch).tolist()
                optimizer.param_groups[0]["lr"] = learning_rate(step, steps, self._peak)
                if not self._step(watch, optimizer, order.pop()):
                    note = f"training ended at step {step} of {steps}, where the loss was not finite"
                    step -= 1
                    break
                stop = pressed()
                if not order or step == steps or stop:
                    history.append(self.measure())
                    if history[-1] == min(history):
                        best = _state(self._parameters)
                if stop:
                    note = f"stopped by Ctrl-C at step {step} of {steps}"
                    break
        _restore(self._parameters, self._part_way(start, best, min(history)) if history else start)
        return history, step, note

    def _part_way(self, start: list[Tensor], best: list[Tensor], divergence: float) -> list[Tensor]:
        """The state between start and best, best included, that is nearest to the dense model on held-out samples.

        From few samples too much is learned; part of the way keeps most of the gain.
        """
        found = best
        for share in PARTS:
            state = [a.lerp(b, share) for a, b in zip(start, best, strict=True)]
            _restore(self._parameters, state)
            if (now := self.measure()) < divergence:
                found, divergence = state, now
        return found

    def seconds_per_step(self) -> float:
        """Measured on a few batches, long and short, by steps of length 0; an epoch's measuring is shared out."""
        optimizer = self._optimizer(0.0)
        probes = np.linspace(0, len(self.batches) - 1, _PROBES + 1).round().astype(int).tolist()
        with Watch(self._student, find_layers(self._student)) as watch:
            self._step(watch, optimizer, probes[0])  # the first one sets up
            start = time.perf_counter()
            for i in probes[1:]:
                self._step(watch, optimizer, i)
            stepped = time.perf_counter()
            self.measure()
        return (stepped - start) / _PROBES + (time.perf_counter() - stepped) / len(self.batches)

    def _optimizer(self, rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(self._parameters, lr=rate, weight_decay=0.0)

    def _step(self, watch: Watch, optimizer: torch.optim.AdamW, i: int) -> bool:
        """One step on a batch; False, and nothing changed, where the gradient is not finite."""
        (output, hidden), batch, targets = self._targets[i], self.batches[i], self._targets
        with self._run.precision(batch["index"].device):
            seen = watch(batch)
        loss = output_loss(seen.output, output, batch, self._problem, targets.scale)
        loss = loss + HIDDEN_WEIGHT * hidden_loss(seen.hidden, hidden, seen.masks, targets.variances)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if world_size() > 1:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            add_up(*gradients)
            torch._foreach_div_(gradients, world_size())
        norm = nn.utils.clip_grad_norm_(self._parameters, MAX_NORM)
        if not torch.isfinite(norm):
            return False
        optimizer.step()
        return True


@contextmanager
def _pressed(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C was pressed inside, once and without ending the run, if that is wanted."""
    found: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, _: object) -> None:
        found.append(number)
        signal.signal(signal.SIGINT, before)  # a second one ends the run

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(found)
    finally:
        signal.signal(signal.SIGINT, before)


def _state(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def _restore(parameters: Iterable[nn.Parameter], state: list[Tensor]) -> None:
    for parameter, value in zip(parameters, state, strict=True):
        parameter.copy_(value)


def peak_rate(problem: Problem, before: float) -> float:
    """The highest learning rate of a long training.

    Args:
        problem: kind of output; numbers have no scale of their own to say what is near.
        before: divergence of the student as it was pruned.
    """
    return LEARNING_RATE * (1.0 if problem == "regression" else min(1.0, before / NEAR))


def learning_rate(step: int, steps: int, peak: float = LEARNING_RATE) -> float:
    """At a step from 1: up and down to 0, both along a line, the higher the more steps there are, `peak` at most."""
    warm_up = max(1, round(WARM_UP * steps))
    highest = peak * min(1.0, steps / LONG)
    return highest * min(step / warm_up, (steps - step + 1) / max(steps - warm_up, 1))


def _affordable(training: _Training, budget: PolishBudget, start: float) -> int:
    """Steps that what is left of a budget in seconds pays for, the same in every process."""
    per_step = training.seconds_per_step()
    assert budget.seconds is not None
    left = budget.seconds - (time.perf_counter() - start)
    return decide(lambda: steps_of_seconds(budget, left, per_step, len(training.batches)))


@torch.no_grad()
def _measure(student: PreTrainedModel, batches: Sequence[Batch], answers: Targets, run: ExecutionOptions) -> float:
    """Mean divergence over the samples of all processes."""
    problem = find_problem(student)
    sums = torch.zeros(2, dtype=torch.float64, device=student.device)
    with frozen(student), run.precision(student.device):
        for i, batch in enumerate(batches):
            output = model_output(student, batch, problem)
            apart = divergence(output.float(), answers[i][0].float(), batch, problem)
            sums += torch.stack([apart.double().sum(), sums.new_tensor(len(apart))])
    add_up(sums)
    return float(sums[0] / sums[1])


def _weights(model: PreTrainedModel) -> int:
    """Parameters of the layers, which is what MACs go by."""
    return sum(parameter.numel() for layer in find_layers(model) for parameter in layer.parameters())
