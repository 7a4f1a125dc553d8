"""A sublayer that the walk has passed: its projection returns known outputs, and its attention module is skipped."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trimformer.models import Sublayer
from trimformer.models.layer_calls import replaced_forward, replay_sublayers
from trimformer.refit.batch_tensors import BatchTensors


@dataclass
class Skippable:
    """A module of a layer that returns nothing but the input or the output of a sublayer's projection.

    Attributes:
        module: the module.
        gives_output: whether it returns the projection's output, not its input.
        width: size of the last dimension of what it returns.
        extras: number of None after it in the tuple that it returns; None where it returns a tensor.
    """

    module: nn.Module
    gives_output: bool
    width: int
    extras: int | None

    @contextmanager
    def skipped(self, output: Tensor) -> Iterator[None]:
        """Lets the module return the projection's output, or zeros for its input, without running."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.gives_output:
                tensor = output
            else:
                hidden = _hidden_argument(args, kwargs)
                tensor = hidden.new_zeros(*hidden.shape[:-1], self.width)
            return tensor if self.extras is None else (tensor, *[None] * self.extras)

        with replaced_forward(self.module, forward):
            yield


class FinishedSublayer:
    """Replays a sublayer within its layer's own forward, and runs as little of it as possible.

    The first replay runs what lies between the producers and the projection, on zeros, and finds out whether a module
    there can be skipped. The later ones skip it, which saves rotary embeddings and attention over zeros.

    Args:
        sublayer: the sublayer.
        outputs: output of its projection, [batch, length, hidden] per batch; not changed.
    """

    def __init__(self, sublayer: Sublayer, outputs: BatchTensors | Sequence[Tensor]) -> None:
        self._sublayer, self._outputs = sublayer, outputs
        self._skippable: Skippable | None = None
        self._is_searched = False

    @contextmanager
    def replayed(self, i: int, observed: Collection[nn.Module]) -> Iterator[None]:
        """Replays the sublayer on a batch within the context.

        Args:
            i: index of the batch.
            observed: leaf modules whose calls are recorded; no module that contains one is skipped.
        """
        output = self._outputs[i].clone()  # as a layer may add to it in place (Falcon)
        skippable, has_run = self._skippable, False

        def replay(_: Tensor) -> Tensor:
            nonlocal has_run
            has_run = True
            return output

        with ExitStack() as stack:
            if skippable is not None and set(observed).isdisjoint(skippable.module.modules()):
                stack.enter_context(skippable.skipped(output))
            stack.enter_context(replay_sublayers([(self._sublayer, replay)]))
            if not self._is_searched:
                found = stack.enter_context(find_skippable(self._sublayer))
            yield
        if has_run and not self._is_searched:  # the run may have been stopped before this sublayer
            self._skippable, self._is_searched = found(), True


@contextmanager
def find_skippable(sublayer: Sublayer) -> Iterator[Callable[[], Skippable | None]]:
    """Watches a run of a sublayer's layer; the function that it yields then returns the module that can be skipped.

    It is the smallest one that contains the producers and the projection, or else the smallest one that contains the
    producers.
    """
    linears = [producer.linear for producer in sublayer.producers]
    modules = [_common_module(sublayer.module, part) for part in ([*linears, sublayer.projection], linears)]
    candidates = [module for module in dict.fromkeys(modules) if module not in (sublayer.module, *linears)]
    runs: dict[nn.Module, tuple[Tensor | None, Any]] = {}  # input and output

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        runs[module] = _hidden_argument(args, kwargs), output

    def found() -> Skippable | None:
        projection_input, projection_output = runs.get(sublayer.projection, (None, None))
        for module in candidates:
            hidden, output = runs.get(module, (None, None))
            first, *extras = output if type(output) is tuple else (output,)
            if not isinstance(first, Tensor) or any(extra is not None for extra in extras):
                continue
            gives_output = first is projection_output
            gives_input = first is projection_input and hidden is not None and first.shape[:-1] == hidden.shape[:-1]
            if gives_output or gives_input:
                return Skippable(module, gives_output, first.shape[-1], len(extras) if type(output) is tuple else None)
        return None

    handles = [m.register_forward_hook(keep, with_kwargs=True) for m in (sublayer.projection, *candidates)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _common_module(layer: nn.Module, leaves: Sequence[nn.Module]) -> nn.Module:
    """Returns the smallest module of a layer that contains some leaf modules."""
    return [module for module in layer.modules() if set(leaves) <= set(module.modules())][-1]


def _hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns a module's hidden states, its first argument; None if it gets them by another name."""
    return args[0] if args else kwargs.get("hidden_states")
