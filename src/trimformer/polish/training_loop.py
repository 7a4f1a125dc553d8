"""The training loop of a polish.

Transformers' Trainer is not used: it would pad every sample anew each epoch and cannot use stored teacher outputs.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem
from trimformer.models.discovery import find_layers
from trimformer.models.layer_calls import Batch
from trimformer.options.execution import ExecutionOptions
from trimformer.polish.losses import hidden_loss, output_loss
from trimformer.polish.schedule import learning_rate, long_training, peak_rate
from trimformer.polish.teacher_outputs import OutputRecorder, TeacherOutputs
from trimformer.utils.distributed import sum_over_processes, world_size

HIDDEN_WEIGHT = 4.0
MAX_NORM = 1.0
INTERPOLATIONS = (0.75, 0.5, 0.25)  # shares of the way from the pruned to the trained weights

_TIMED_STEPS = 4


class TrainingLoop:
    """Trains a student on stored outputs of the dense model.

    Args:
        student: the student; its trainable parameters require gradients.
        batches: batches to train on.
        targets: outputs of the dense model on these batches.
        measure: returns the held-out divergence of the current student.
        divergence: held-out divergence before the training.
        run: seed, precision and progress.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        batches: Sequence[Batch],
        targets: TeacherOutputs,
        measure: Callable[[], float],
        divergence: float,
        run: ExecutionOptions,
    ) -> None:
        self._student, self.batches, self._targets, self._run = student, batches, targets, run
        self._measure, self._problem = measure, find_problem(student)
        self._peak, self._long = peak_rate(self._problem, divergence), long_training(self._problem)
        self._parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]

    def train(self, steps: int, *, stoppable: bool = False) -> tuple[list[float], int, str]:
        """Trains for a number of steps; leaves the student at its best epoch's end or part of the way there.

        Args:
            steps: number of steps.
            stoppable: Ctrl-C ends the training early and keeps the best weights.

        Returns:
            Held-out divergence after each epoch, number of steps taken, and the reason of an early end or "".
        """
        start, history = copy_values(self._parameters), list[float]()
        best = start
        optimizer, order, epoch = self._optimizer(0.0), list[int](), len(self.batches)
        generator = np.random.default_rng(self._run.seed)
        note, step = "", 0
        with (
            OutputRecorder(self._student, find_layers(self._student)) as recorder,
            _interruption(stoppable) as interrupted,
        ):
            for step in self._run.progress(range(1, steps + 1), "polish"):
                order = order or generator.permutation(epoch).tolist()
                optimizer.param_groups[0]["lr"] = learning_rate(step, steps, self._peak, self._long)
                if not self._step(recorder, optimizer, order.pop()):
                    note = f"training ended at step {step} of {steps}, where the loss was not finite"
                    step -= 1
                    break
                stop = interrupted()
                if not order or step == steps or stop:
                    history.append(self._measure())
                    if history[-1] == min(history):
                        best = copy_values(self._parameters)
                if stop:
                    note = f"stopped by Ctrl-C at step {step} of {steps}"
                    break
        write_values(self._parameters, self._interpolate(start, best, min(history)) if history else start)
        return history, step, note

    def _interpolate(self, start: list[Tensor], best: list[Tensor], divergence: float) -> list[Tensor]:
        """Returns the weights between start and best, best included, with the lowest held-out divergence.

        Training on few samples overfits; weights part of the way keep most of the gain.
        """
        selected = best
        for share in INTERPOLATIONS:
            values = [a.lerp(b, share) for a, b in zip(start, best, strict=True)]
            write_values(self._parameters, values)
            if (measured := self._measure()) < divergence:
                selected, divergence = values, measured
        return selected

    def measure_seconds(self) -> tuple[float, float]:
        """Measures, with learning rate 0, what a training takes.

        Returns:
            Seconds per step, a mean over short and long batches in which the measurement of the held-out divergence
            once per epoch is spread over the steps; and the seconds of the measurements after the last step.
        """
        optimizer = self._optimizer(0.0)
        timed = np.linspace(0, len(self.batches) - 1, _TIMED_STEPS + 1).round().astype(int).tolist()
        with OutputRecorder(self._student, find_layers(self._student)) as recorder:
            self._step(recorder, optimizer, timed[0])  # the first step allocates memory
            start = time.perf_counter()
            for i in timed[1:]:
                self._step(recorder, optimizer, i)
            stepped = time.perf_counter()
            self._measure()
        per_measurement = time.perf_counter() - stepped
        per_step = (stepped - start) / _TIMED_STEPS + per_measurement / len(self.batches)
        return per_step, (len(INTERPOLATIONS) + 1) * per_measurement

    def _optimizer(self, rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(self._parameters, lr=rate, weight_decay=0.0)

    def _step(self, recorder: OutputRecorder, optimizer: torch.optim.AdamW, i: int) -> bool:
        """Takes one step on a batch; returns False and changes nothing if the gradient is not finite."""
        (target, target_hidden), batch = self._targets[i], self.batches[i]
        with self._run.precision(batch["index"].device):
            student = recorder(batch)
        loss = output_loss(student.output, target, batch, self._problem, self._targets.scale)
        loss = loss + HIDDEN_WEIGHT * hidden_loss(student.hidden, target_hidden, student.masks, self._targets.variances)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if world_size() > 1:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            sum_over_processes(*gradients)
            torch._foreach_div_(gradients, world_size())
        norm = nn.utils.clip_grad_norm_(self._parameters, MAX_NORM)
        if not torch.isfinite(norm):
            return False
        optimizer.step()
        return True


@contextmanager
def _interruption(enabled: bool) -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether Ctrl-C was pressed; the first Ctrl-C does not end the run.

    If not enabled, Ctrl-C ends the run as usual.
    """
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signals: list[int] = []
    handler = signal.getsignal(signal.SIGINT)

    def record(number: int, _: object) -> None:
        signals.append(number)
        signal.signal(signal.SIGINT, handler)  # a second Ctrl-C ends the run

    signal.signal(signal.SIGINT, record)
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGINT, handler)


def copy_values(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Returns copies of the parameters' values."""
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def write_values(parameters: Iterable[nn.Parameter], values: list[Tensor]) -> None:
    """Writes values into the parameters, in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
