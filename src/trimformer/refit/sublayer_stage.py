"""The walk at one sublayer: collects the moments of the regressions, then runs the students' new projections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.models import Sublayer
from trimformer.models.layer_calls import Batch, LeafRecorder, by_position
from trimformer.models.linear import matrix
from trimformer.refit.batch_tensors import BatchTensors
from trimformer.refit.finished_sublayer import FinishedSublayer
from trimformer.refit.model_stream import ModelStream
from trimformer.refit.regression_moments import HELD_OUT_EVERY, Moments, SplitSums

# (sublayer index, batch index, mask) -> token weights of the mask's shape; weight 0 leaves a token out. The shape is
# [batch, length], or [calls, batch, length] for a layer that is called at several depths.
TokenWeights = Callable[[int, int, Tensor], Tensor]


@dataclass
class Step:
    """Moments of one regression at one student's sublayer.

    For the projection, the inputs are the student's channels, and the target is what must be added to the student's
    residual stream to give the teacher's. For the alignment, the inputs are what the student's producers (query, key,
    value; or the first linear layers of the FFN) read, and the targets are what the teacher's read.

    Attributes:
        index: position of the sublayer.
        student: position of the student.
        sublayer: the student's sublayer; its weights may be changed before the walk goes on.
        fit: moments of the samples to fit on.
        held_out: moments of the held-out samples.
    """

    index: int
    student: int
    sublayer: Sublayer
    fit: Moments
    held_out: Moments


class SublayerStage:
    """The walk at one sublayer of the teacher and of every student.

    Args:
        index: position of the sublayer.
        source: the teacher's sublayer.
        sublayers: the sublayer of each student.
        teacher: the teacher's stream.
        students: the stream of each student.
        batches: calibration samples.
        new_tensors: makes an empty list of tensors, one per batch.
        is_last: whether the sublayer is the last one of its layer.
        teacher_outputs: what the teacher's projection returns, per batch, where it is known; else empty.
        parallel: the preceding sublayer, which runs in parallel, of the teacher and of each student; None if none does.

    Attributes:
        aligned_producer: index of the first producer that reads nothing but the hidden states; None if there is none.
    """

    def __init__(
        self,
        index: int,
        source: Sublayer,
        sublayers: Sequence[Sublayer],
        teacher: ModelStream,
        students: Sequence[ModelStream],
        batches: Sequence[Batch],
        new_tensors: Callable[[], BatchTensors],
        *,
        is_last: bool,
        teacher_outputs: Sequence[Tensor],
        parallel: tuple[Sublayer, ...] | None,
    ) -> None:
        self.index, self.source, self.sublayers = index, source, sublayers
        self._teacher, self._students, self._new_tensors = teacher, students, new_tensors
        self._is_last, self._teacher_outputs, self._parallel = is_last, teacher_outputs, parallel
        self._is_called_once = source.calls_per_pass == 1
        self._samples = [batch["index"] for batch in batches]
        self.aligned_producer = next((k for k, p in enumerate(source.producers) if p.reads_only_hidden), None)
        self._channels: list[list[Tensor]] = [[] for _ in sublayers]

    def alignment_steps(self) -> list[Step]:
        """Collects, per student with units, the moments of what its producers read and of what the teacher's read."""
        assert self.aligned_producer is not None
        source, calls = self.source.producers[self.aligned_producer].linear, self.source.calls_per_pass
        leaves = {k: s.producers[self.aligned_producer].linear for k, s in enumerate(self.sublayers) if s.num_units}
        width = matrix(source).shape[1]
        sums = {k: SplitSums(width, width, self.source.device) for k in leaves}
        for i in range(len(self._samples) if leaves else 0):
            teacher_read = LeafRecorder(source, stop=calls)
            self._teacher.run_layer(i, teacher_read)
            for k, leaf in leaves.items():
                student_read = LeafRecorder(leaf, stop=calls)
                self._students[k].run_layer(i, student_read)
                for n, (y, x) in enumerate(zip(teacher_read.tensors, student_read.tensors, strict=True)):
                    mask = self._teacher.calls[i][n].mask
                    sums[k].add(by_position(x, mask), by_position(y, mask), mask, self._held_out(i, len(mask)))
        return [Step(self.index, k, self.sublayers[k], *total.moments()) for k, total in sums.items()]

    def projection_steps(self, token_weights: TokenWeights | None, keep_channels: bool) -> list[Step]:
        """Collects, per student, the moments of its projection's inputs and targets.

        Args:
            token_weights: weights of tokens; None weighs every token 1 that is not padding.
            keep_channels: keep the channels in memory until `finish`, which otherwise computes them again; unused for a
                layer that is called several times.
        """
        sums = [SplitSums(s.channels, s.hidden_size, s.device) for s in self.sublayers]
        teacher_outputs = self._new_tensors()
        is_replayed = self._is_called_once and not self._is_last and not self._teacher_outputs
        for i in range(len(self._samples)):
            targets, teacher_output = self._run_teacher(i)
            weights = self._token_weights(token_weights, i)
            for k, sublayer in enumerate(self.sublayers):
                entry = LeafRecorder(sublayer.entry)
                channels = LeafRecorder(sublayer.projection, stop=self.source.calls_per_pass)
                parallel = self._record_parallel(1 + k)
                self._students[k].run_layer(i, entry, channels, *parallel)
                for n, x in enumerate(channels.tensors):
                    mask = self._teacher.calls[i][n].mask
                    residual = sum((recorder.tensors[n] for recorder in parallel), entry.tensors[n])
                    target = by_position(targets[n](residual, sublayer), mask)
                    sums[k].add(by_position(x, mask), target, weights[n], self._held_out(i, len(mask)))
                if keep_channels and self._is_called_once:
                    self._channels[k].append(channels.tensors[0])
            if is_replayed:
                teacher_outputs[i] = teacher_output
        if is_replayed:
            self._teacher.finished.append(FinishedSublayer(self.source, teacher_outputs))
        return [Step(self.index, k, self.sublayers[k], *total.moments()) for k, total in enumerate(sums)]

    def finish(self) -> None:
        """Runs the students' projections as they are now; after a layer's last sublayer, moves on to the next layer."""
        for stream, sublayer, channels in zip(self._students, self.sublayers, self._channels, strict=True):
            outputs = self._new_tensors()
            for i in range(len(self._samples)):
                output = None
                if channels:
                    output, channels[i] = sublayer.projection(channels[i]), channels[i].new_empty(0)  # frees the memory
                elif self._is_called_once and not self._is_last:
                    recorder = LeafRecorder(sublayer.projection, outputs=True, stop=1)
                    stream.run_layer(i, recorder)
                    output = recorder.tensors[0]
                if self._is_last:
                    stream.hidden[i] = stream.run_layer(i, replayed=None if output is None else (sublayer, output))
                elif output is not None:
                    outputs[i] = output
            if self._is_called_once and not self._is_last:
                stream.finished.append(FinishedSublayer(sublayer, outputs))

    def _run_teacher(self, i: int) -> tuple[list[Callable[[Tensor, Sublayer], Tensor]], Tensor]:
        """Runs the teacher's layer on a batch; after a layer's last sublayer, the teacher moves on to the next layer.

        Returns:
            For each call the function from a student's residual stream and sublayer to its projection's target, and the
            output of the teacher's projection.
        """
        source = self.source
        entry, parallel = LeafRecorder(source.entry), self._record_parallel(0)
        projected = None if self._teacher_outputs else LeafRecorder(source.projection, outputs=True)
        added = projected if source.output is None else LeafRecorder(source.output, outputs=True)
        recorders = [recorder for recorder in dict.fromkeys((entry, projected, added, *parallel)) if recorder]
        if not self._is_last and (added or not parallel):  # otherwise the layer's output is needed, or what follows
            (added or entry).stop = source.calls_per_pass
        output = self._teacher.run_layer(i, *recorders)
        if self._is_last:
            self._teacher.hidden[i] = output
        projection_outputs = projected.tensors if projected else [self._teacher_outputs[i]]
        targets = []
        for n, projection_output in enumerate(projection_outputs):
            contribution = added.tensors[n] if added else projection_output
            if source.multiplier != 1:
                contribution = contribution * source.multiplier
            total = sum((recorder.tensors[n] for recorder in parallel), entry.tensors[n] + contribution)
            targets.append(self._target(total, projection_output))
        return targets, projection_outputs[-1]

    def _record_parallel(self, model: int) -> list[LeafRecorder]:
        """Returns a recorder of the parallel sublayer's output in the teacher (0) or a student; none if none runs."""
        if self._parallel is None:
            return []
        sublayer = self._parallel[model]
        return [LeafRecorder(sublayer.output or sublayer.projection, outputs=True)]

    def _target(self, total: Tensor, teacher_output: Tensor) -> Callable[[Tensor, Sublayer], Tensor]:
        """Returns the function from a student's residual stream and sublayer to its projection's target.

        Args:
            total: the teacher's residual sum, [batch, length, hidden].
            teacher_output: output of the teacher's projection, [batch, length, hidden].
        """
        source = self.source
        if source.output is None:
            return lambda residual, _: (total - residual) / source.multiplier
        if source.gain is None:  # a norm after the projection removes scale, so sums cannot be compared
            return lambda *_: teacher_output

        def before_gain(residual: Tensor, sublayer: Sublayer) -> Tensor:
            assert sublayer.gain is not None
            return torch.where(sublayer.gain.abs() < 1e-6, teacher_output, (total - residual) / sublayer.gain)

        return before_gain

    def _token_weights(self, token_weights: TokenWeights | None, i: int) -> list[Tensor]:
        """Returns the weights [batch, length] of each call on a batch."""
        masks = [call.mask for call in self._teacher.calls[i]]
        if token_weights is None:
            return masks
        if self._is_called_once:
            return [token_weights(self.index, i, masks[0])]
        return list(token_weights(self.index, i, torch.stack(masks)))

    def _held_out(self, i: int, rows: int) -> Tensor:
        """Returns whether each row [rows] of a batch is held out; a sample may have several rows."""
        return (self._samples[i] % HELD_OUT_EVERY == 0).repeat_interleave(rows // len(self._samples[i]))
