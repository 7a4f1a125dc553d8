"""Walks through the teacher and its students together, sublayer by sublayer from the bottom.

Every refit of the students' output projections uses this walk. The teacher gives the targets of the residual stream.
The students, which are already shrunk and are refitted below the current sublayer, give the inputs. A fit needs only
second moments, never a matrix of all tokens. Layers run by their own forward, and finished sublayers are replayed, so
the walk costs one forward pass of each model. Students of several budgets share the teacher's pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch, LayerCall, count_positions, record_calls
from trimformer.models.masking import frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.batch_tensors import BatchTensors
from trimformer.refit.finished_sublayer import FinishedSublayer
from trimformer.refit.model_stream import ModelStream
from trimformer.refit.sublayer_stage import Step, SublayerStage, TokenWeights
from trimformer.refit.walk_memory import STATES, WalkMemory


@torch.no_grad()
def walk(
    teacher: PreTrainedModel,
    students: PreTrainedModel | Sequence[PreTrainedModel],
    batches: Sequence[Batch],
    *,
    token_weights: TokenWeights | None = None,
    teacher_outputs: Sequence[Sequence[Tensor]] = (),
    align: Callable[[Step], None] | None = None,
    run: ExecutionOptions | None = None,
    desc: str = "walk",
) -> Iterator[Step]:
    """Yields one regression per sublayer and student, from the bottom; then runs the projection with its new weights.

    A layer that is called at several depths is walked over all of them at once: its moments are sums over its calls.

    Args:
        teacher: the model to follow.
        students: a shrunk copy of the teacher, or several; they do not influence one another.
        batches: this process's part of the calibration samples.
        token_weights: weights of tokens; None weighs every token 1 that is not padding.
        teacher_outputs: what the teacher's projections return, per sublayer and batch, so that these sublayers need not
            run; those with an empty entry run, and all do if there are no entries.
        align: called before a sublayer runs; may change the producers that read the student's hidden states. All tokens
            weigh 1 in its moments, because attention reads all of them.
        run: `max_memory` bounds hidden states and channels. Beyond it, channels are computed twice instead of stored,
            and hidden states go to temporary files.
        desc: label of the progress bar.

    Raises:
        TrimformerError: the model works on the hidden states between its layers.
    """
    run = run or ExecutionOptions()
    students = [students] if isinstance(students, PreTrainedModel) else list(students)
    sources = find_sublayers(teacher)
    shrunk = list(zip(*map(find_sublayers, students), strict=True))  # [sublayer][student]
    known = teacher_outputs or [()] * len(sources)
    with ExitStack() as stack:
        for model in (teacher, *students):
            stack.enter_context(frozen(model))
        memory = WalkMemory.of(
            max(count_positions(teacher, batches)) * teacher.dtype.itemsize,
            max(s.hidden_size for s in sources),
            max(sum(s.channels for s in sublayers) for sublayers in shrunk),
            len(students),
            run.max_memory - sum(output.nbytes for outputs in known for output in outputs),
        )
        new_tensors = stack.enter_context(BatchTensors.factory(memory.on_disk, len(batches)))
        calls, tower_inputs = _record_calls(teacher, batches, new_tensors)
        teacher_stream, *streams = (ModelStream(new_tensors, len(batches)) for _ in (teacher, *students))
        first_call = 0  # of the current layer
        for index, source in enumerate(run.progress(sources, desc)):
            reads_tower_input = False  # which is the same for all models
            if index == 0 or sources[index - 1].module is not source.module:
                tower_input, last_call = tower_inputs.pop(first_call, None), first_call + source.calls_per_pass
                layer_calls = [batch_calls[first_call:last_call] for batch_calls in calls]
                first_call = last_call
                teacher_stream.enter_layer(layer_calls, tower_input)
                teacher_stream.finished = [
                    FinishedSublayer(s, outputs)
                    for s, outputs in zip(sources, known, strict=True)
                    if outputs and s.module is source.module
                ]
                for stream, sublayer in zip(streams, shrunk[index], strict=True):
                    student_calls = [[call.with_layer(sublayer.module) for call in part] for part in layer_calls]
                    stream.enter_layer(student_calls, tower_input)
                reads_tower_input = tower_input is not None and source.calls_per_pass == 1
            stage = SublayerStage(
                index,
                source,
                shrunk[index],
                teacher_stream,
                streams,
                batches,
                new_tensors,
                is_last=index + 1 == len(sources) or sources[index + 1].module is not source.module,
                teacher_outputs=known[index],
                parallel=(sources[index - 1], *shrunk[index - 1]) if source.parallel else None,
            )
            if align is not None and not reads_tower_input and stage.aligned_producer is not None:
                for step in stage.alignment_steps():
                    align(step)
            yield from stage.projection_steps(token_weights, memory.keeps_channels)
            stage.finish()


def bytes_per_student(model: PreTrainedModel, batches: Sequence[Batch]) -> int:
    """Returns the memory in bytes that a walk needs at most per student, without its weights and moments."""
    sources = find_sublayers(model)
    widths = STATES * max(s.hidden_size for s in sources) + max(s.channels for s in sources)
    return max(count_positions(model, batches)) * model.dtype.itemsize * widths


def _record_calls(
    model: PreTrainedModel, batches: Sequence[Batch], new_tensors: Callable[[], BatchTensors]
) -> tuple[list[list[LayerCall]], dict[int, BatchTensors]]:
    """Returns the layer calls of each batch, and the input of each tower by the index of its first call."""
    calls: list[list[LayerCall]] = []
    tower_inputs: dict[int, BatchTensors] = {}
    for i, batch in enumerate(batches):
        calls.append(record_calls(model, batch))
        for k, call in enumerate(calls[-1]):
            if call.first_hidden is not None:
                tower_inputs.setdefault(k, new_tensors())[i] = call.first_hidden
                call.first_hidden = None
    return calls, tower_inputs
