"""One model's progress through its layers during a walk."""

from collections.abc import Callable
from contextlib import ExitStack, suppress

from torch import Tensor

from trimformer.models import Sublayer
from trimformer.models.layer_calls import LayerCall, LeafRecorder, StopForward, replay_sublayers
from trimformer.refit.batch_tensors import BatchTensors
from trimformer.refit.finished_sublayer import FinishedSublayer


class ModelStream:
    """One model's progress: the input of its current layer and the outputs of the sublayers that are already done.

    Args:
        new_tensors: makes an empty list of tensors, one per batch.
        batches: number of batches.

    Attributes:
        hidden: input of the current layer, [batch, length, hidden] per batch.
        finished: sublayers of the current layer that are done.
        calls: calls of the current layer in one forward pass, per batch.
    """

    def __init__(self, new_tensors: Callable[[], BatchTensors], batches: int) -> None:
        self.hidden = new_tensors()
        self.finished: list[FinishedSublayer] = []
        self.calls: list[list[LayerCall]] = [[] for _ in range(batches)]

    def enter_layer(self, calls: list[list[LayerCall]], tower_input: BatchTensors | None) -> None:
        """Moves on to the next layer; `tower_input` is its input if it is the first layer of a tower."""
        self.calls, self.finished = calls, []
        if tower_input is not None:
            for i in range(len(calls)):
                self.hidden[i] = tower_input[i]

    def run_layer(self, i: int, *recorders: LeafRecorder, replayed: tuple[Sublayer, Tensor] | None = None) -> Tensor:
        """Runs the current layer on a batch and replays its finished sublayers.

        Args:
            i: index of the batch.
            *recorders: recorders of tensors at leaves of the layer; one of them may stop the run.
            replayed: one more sublayer to replay, and the output of its projection.

        Returns:
            The layer's output [batch, length, hidden]; the input of the last call if a recorder stopped the run.
        """
        hidden = self.hidden[i]
        with ExitStack() as stack:
            for finished in self.finished:
                stack.enter_context(finished.replayed(i, [recorder.leaf for recorder in recorders]))
            if replayed is not None:
                sublayer, output = replayed
                stack.enter_context(replay_sublayers([(sublayer, lambda _: output)]))
            for recorder in recorders:
                stack.enter_context(recorder)
            with suppress(StopForward):
                for call in self.calls[i]:
                    hidden = call(hidden)
        return hidden
