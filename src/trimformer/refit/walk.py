"""Teacher and students walked together, sublayer by sublayer from the bottom.

Whatever refits the student's output projections stands on this: the teacher gives the target of the
residual stream, the student, already shrunk and refitted below, gives the inputs. What a fit needs is
a few second moments, never a matrix of all tokens. Layers are run by their own forward, a sublayer that is
settled is replayed, so the whole walk costs one forward pass of each model: students of several budgets share the
teacher's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.models import Sublayer, find_sublayers
from trimformer.models.layer_calls import Batch, LayerCall, LeafRecorder, StopForward, record_calls, replay_sublayers
from trimformer.models.linear import matrix
from trimformer.models.masking import frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.regression_moments import Moments, SplitSums
from trimformer.refit.spill_files import BatchTensors

# (index of the sublayer, index of the batch, mask) -> weights of tokens, of the mask's shape, 0 leaves one out. It is
# [batch, length]; [visits, batch, length] where the layer is called at several depths.
TokenWeights = Callable[[int, int, Tensor], Tensor]

HELD_OUT_EVERY = 8

_STATES = 2  # kept of each model and position: what goes into a layer, and what its first projection gave


@dataclass
class Step:
    """One sublayer of the walk, and the moments of what goes into a linear map and what should come out.

    For its projection, what should come out is what takes the student's residual stream to the teacher's;
    for its alignment, what the student's producers read goes in and what the teacher's read should come out.

    Attributes:
        index: position among the sublayers.
        student: position among the students.
        sublayer: the student's; its weights may be changed before the walk goes on.
        fit: moments of the samples to fit on.
        held_out: moments of the other samples.
    """

    index: int
    student: int
    sublayer: Sublayer
    fit: Moments
    held_out: Moments


class _Side:
    """One model's way up: what goes into the current layer, and what its settled projections gave."""

    def __init__(self, new: Callable[[], BatchTensors], batches: int) -> None:
        self.hidden = new()  # per batch [batch, length, hidden]
        self.settled: list[tuple[Sublayer, BatchTensors]] = []
        self.calls: list[list[LayerCall]] = [[] for _ in range(batches)]

    def enter(self, calls: list[list[LayerCall]], bottom: BatchTensors | None) -> None:
        """Goes on to the next layer; `bottom` are its hidden states where it is the first of a tower."""
        self.calls, self.settled = calls, []
        if bottom is not None:
            for i in range(len(calls)):
                self.hidden[i] = bottom[i]

    def run(self, i: int, *taps: LeafRecorder, answer: tuple[Sublayer, Tensor] | None = None) -> Tensor:
        """The layer's output for a batch, settled sublayers replayed; where a tap stops it, what went in.

        Args:
            i: index of the batch.
            *taps: on leaves of the layer.
            answer: one more sublayer to replay, and what its projection gives.
        """
        hidden = self.hidden[i]
        answers = [(sublayer, _answer(outputs[i])) for sublayer, outputs in self.settled]
        if answer is not None:
            answers.append((answer[0], _answer(answer[1])))
        with replay_sublayers(answers), ExitStack() as stack:
            for tap in taps:
                stack.enter_context(tap)
            with suppress(StopForward):
                for call in self.calls[i]:
                    hidden = call(hidden)
        return hidden


def _answer(output: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: output


@torch.no_grad()
def walk(
    teacher: PreTrainedModel,
    students: PreTrainedModel | Sequence[PreTrainedModel],
    batches: Sequence[Batch],
    *,
    token_weights: TokenWeights | None = None,
    align: Callable[[Step], None] | None = None,
    run: ExecutionOptions | None = None,
    desc: str = "walk",
) -> Iterator[Step]:
    """Yields every sublayer once for each student, bottom first; goes on with the student's projection as it is then.

    A layer that is called at several depths is walked over all of them at once: moments are sums over its calls.

    Args:
        teacher: the model to follow.
        students: a shrunk copy of it, or several; none knows of the others.
        batches: calibration samples, this process's part of them.
        token_weights: weights of tokens; without it every token that is not padding weighs 1.
        align: called before a sublayer runs, to change the producers that read the student's hidden states;
            all tokens weigh 1 then, as attention reads them all.
        run: bounds the memory of hidden states and channels. Beyond it, channels are computed twice instead of kept,
            and hidden states go to temporary files.
        desc: what the progress bar says.

    Raises:
        TrimformerError: the model works on the hidden states between its layers.
    """
    run = run or ExecutionOptions()
    students = [students] if isinstance(students, PreTrainedModel) else list(students)
    sources = find_sublayers(teacher)
    shrunk = list(zip(*map(find_sublayers, students), strict=True))  # of each sublayer, every student's
    with ExitStack() as stack:
        for model in (teacher, *students):
            stack.enter_context(frozen(model))
        position = _positions(teacher, batches) * teacher.dtype.itemsize
        widest = position * max(sum(s.channels for s in each) for each in shrunk)
        in_memory = (1 + len(students)) * position * _STATES * max(s.hidden_size for s in sources)
        keeps_channels = in_memory + widest <= run.max_memory
        new = stack.enter_context(BatchTensors.place(in_memory > run.max_memory, len(batches)))
        calls, bottoms = _record(teacher, batches, new)
        above, *below = (_Side(new, len(batches)) for _ in (teacher, *students))
        start = 0  # of the layer's calls
        for index, source in enumerate(run.progress(sources, desc)):
            stage = _Stage(index, source, shrunk[index], above, below, batches, new)
            if index == 0 or sources[index - 1].module is not source.module:
                layer_calls, bottom = (
                    [c[start : start + source.calls_per_pass] for c in calls],
                    bottoms.pop(start, None),
                )
                start += source.calls_per_pass
                above.enter(layer_calls, bottom)
                for side, sublayer in zip(below, shrunk[index], strict=True):
                    side.enter([[call.with_layer(sublayer.module) for call in part] for part in layer_calls], bottom)
                stage.is_bottom = bottom is not None and source.calls_per_pass == 1
            stage.is_last = index + 1 == len(sources) or sources[index + 1].module is not source.module
            stage.parallel = (sources[index - 1], *shrunk[index - 1]) if source.parallel else None
            if align is not None and not stage.is_bottom and stage.reader is not None:
                for step in stage.alignments():
                    align(step)
            yield from stage.fits(token_weights, keeps_channels)
            stage.settle()


def bytes_per_student(model: PreTrainedModel, batches: Sequence[Batch]) -> int:
    """Memory that a walk takes at most for each student of this model, its weights and moments aside."""
    sources = find_sublayers(model)
    widths = _STATES * max(s.hidden_size for s in sources) + max(s.channels for s in sources)
    return _positions(model, batches) * model.dtype.itemsize * widths


def _positions(model: PreTrainedModel, batches: Sequence[Batch]) -> int:
    """Positions of all batches together, from those of the first."""
    if not batches:
        return 0
    sizes = [batch[model.main_input_name].numel() for batch in batches]
    return sum(sizes) * record_calls(model, batches[0])[0].mask.numel() // sizes[0]


def _record(
    model: PreTrainedModel, batches: Sequence[Batch], new: Callable[[], BatchTensors]
) -> tuple[list[list[LayerCall]], dict[int, BatchTensors]]:
    """The calls of each batch, and by the number of a call the hidden states at the bottom of each tower."""
    calls: list[list[LayerCall]] = []
    bottoms: dict[int, BatchTensors] = {}
    for i, batch in enumerate(batches):
        calls.append(record_calls(model, batch))
        for k, call in enumerate(calls[-1]):
            if call.first_hidden is not None:
                bottoms.setdefault(k, new())[i] = call.first_hidden
                call.first_hidden = None
    return calls, bottoms


class _Stage:
    """The walk at one sublayer."""

    def __init__(
        self,
        index: int,
        source: Sublayer,
        sublayers: Sequence[Sublayer],
        above: _Side,
        below: Sequence[_Side],
        batches: Sequence[Batch],
        new: Callable[[], BatchTensors],
    ) -> None:
        self.index, self.source, self.sublayers = index, source, sublayers
        self.above, self.below, self.new = above, below, new
        self.is_bottom = self.is_last = False
        self.is_single = source.calls_per_pass == 1
        self.parallel: tuple[Sublayer, ...] | None = None  # the teacher's neighbour, and each student's
        self.samples = [batch["index"] for batch in batches]
        self.reader = next((k for k, p in enumerate(source.producers) if p.reads_only_hidden), None)
        self.kept: list[list[Tensor]] = [[] for _ in sublayers]

    def alignments(self) -> list[Step]:
        """Moments of what the students' producers read, and of what the teacher's do."""
        assert self.reader is not None
        source = self.source.producers[self.reader].linear
        leaves = {k: s.producers[self.reader].linear for k, s in enumerate(self.sublayers) if s.num_units}
        width = matrix(source).shape[1]
        sums = {k: SplitSums(width, width, self.source.device) for k in leaves}
        for i in range(len(self.samples) if leaves else 0):
            wanted = LeafRecorder(source, stop=self.source.calls_per_pass)
            self.above.run(i, wanted)
            for k, leaf in leaves.items():
                read = LeafRecorder(leaf, stop=self.source.calls_per_pass)
                self.below[k].run(i, read)
                for visit, (y, x) in enumerate(zip(wanted.tensors, read.tensors, strict=True)):
                    mask = self.above.calls[i][visit].mask
                    sums[k].add(x, y, mask, self._held_out(i, len(x)))
        return [Step(self.index, k, self.sublayers[k], *total.moments()) for k, total in sums.items()]

    def fits(self, token_weights: TokenWeights | None, keeps_channels: bool) -> list[Step]:
        """Moments of the students' channels, and of what their projections should make of them."""
        sums = [SplitSums(s.channels, s.hidden_size, s.device) for s in self.sublayers]
        settled = self.new()
        for i in range(len(self.samples)):
            targets, given = self._watch_teacher(i)
            weights = self._weights(token_weights, i)
            for k, sublayer in enumerate(self.sublayers):
                entry, channels = (
                    LeafRecorder(sublayer.entry),
                    LeafRecorder(sublayer.projection, stop=self.source.calls_per_pass),
                )
                beside = self._beside(1 + k)
                self.below[k].run(i, entry, channels, *beside)
                for visit, x in enumerate(channels.tensors):
                    stream = sum((tap.tensors[visit] for tap in beside), entry.tensors[visit])
                    sums[k].add(x, targets[visit](stream, sublayer), weights[visit], self._held_out(i, len(x)))
                if keeps_channels and self.is_single:
                    self.kept[k].append(channels.tensors[0])
            if not self.is_last:
                settled[i] = given
        if self.is_single and not self.is_last:
            self.above.settled.append((self.source, settled))
        return [
            Step(self.index, k, s, *total.moments())
            for k, (s, total) in enumerate(zip(self.sublayers, sums, strict=True))
        ]

    def _watch_teacher(self, i: int) -> tuple[list[Callable[[Tensor, Sublayer], Tensor]], Tensor]:
        """For each call, what a student's projection should give by its stream; and what the teacher's gives.

        At a layer's last sublayer the teacher goes on to the next layer.
        """
        source, last_call = self.source, 0 if self.is_last else self.source.calls_per_pass
        entry, given = LeafRecorder(source.entry), LeafRecorder(source.projection, outputs=True)
        added = given if source.output is None else LeafRecorder(source.output, outputs=True)
        added.stop = last_call
        beside = self._beside(0)
        output = self.above.run(i, *dict.fromkeys((entry, given, added, *beside)))
        if self.is_last:
            self.above.hidden[i] = output
        targets = []
        for visit, given_now in enumerate(given.tensors):
            total = sum((tap.tensors[visit] for tap in beside), entry.tensors[visit] + added.tensors[visit])
            targets.append(self._target(total, given_now))
        return targets, given.tensors[-1]

    def _beside(self, side: int) -> list[LeafRecorder]:
        """A tap on what the sublayer beside this one adds, of the teacher (0) or a student; none where none is."""
        if self.parallel is None:
            return []
        neighbour = self.parallel[side]
        return [LeafRecorder(neighbour.output or neighbour.projection, outputs=True)]

    def _target(self, total: Tensor, given: Tensor) -> Callable[[Tensor, Sublayer], Tensor]:
        """The projection's target by a student's stream.

        Args:
            total: the teacher's residual sum, [batch, length, hidden].
            given: what the teacher's projection gave.
        """
        source = self.source
        if source.output is None:
            return lambda stream, _: total - stream
        if source.gain is None:  # a norm follows: it keeps only the direction, and the teacher's is as good as any
            return lambda *_: given

        def before_gain(stream: Tensor, sublayer: Sublayer) -> Tensor:
            assert sublayer.gain is not None
            return torch.where(sublayer.gain.abs() < 1e-6, given, (total - stream) / sublayer.gain)

        return before_gain

    def settle(self) -> None:
        """Goes on with the students' projections as they are now."""
        for side, sublayer, kept in zip(self.below, self.sublayers, self.kept, strict=True):
            outputs = self.new()
            for i in range(len(self.samples)):
                output = None
                if kept:
                    output, kept[i] = sublayer.projection(kept[i]), kept[i].new_empty(0)
                elif self.is_single and not self.is_last:
                    tap = LeafRecorder(sublayer.projection, outputs=True, stop=1)
                    side.run(i, tap)
                    output = tap.tensors[0]
                if self.is_last:
                    side.hidden[i] = side.run(i, answer=None if output is None else (sublayer, output))
                elif output is not None:
                    outputs[i] = output
            if self.is_single and not self.is_last:
                side.settled.append((sublayer, outputs))

    def _weights(self, token_weights: TokenWeights | None, i: int) -> list[Tensor]:
        """[batch, length] for each call."""
        masks = [call.mask for call in self.above.calls[i]]
        if token_weights is None:
            return masks
        if self.is_single:
            return [token_weights(self.index, i, masks[0])]
        return list(token_weights(self.index, i, torch.stack(masks)))

    def _held_out(self, i: int, rows: int) -> Tensor:
        """[rows]: whether a row of a batch is held out; a sample may have several rows."""
        return (self.samples[i] % HELD_OUT_EVERY == 0).repeat_interleave(rows // len(self.samples[i]))
