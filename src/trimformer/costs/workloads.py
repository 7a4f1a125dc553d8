"""What is timed of a model: a forward pass, or a phase of its work in llama.cpp."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.backends import prepare
from trimformer.costs.random_inputs import Prompt
from trimformer.costs.timing import MIN_TURNS, interleaved
from trimformer.costs.token_speed import GENERATED, time_in_turns
from trimformer.errors import TrimformerError
from trimformer.export.gguf.timed_file import write_timed_file
from trimformer.models import max_positions
from trimformer.options.choices import Backend, Phase, Quantization
from trimformer.options.gguf import DEFAULT_TIMED_CONTEXT, GgufOptions
from trimformer.utils.temp_dirs import temporary_directory


class Workload(Protocol):
    """What is timed of a model."""

    def time(self, models: Iterable[PreTrainedModel], seconds: float | None = None) -> list[list[float]]:
        """Times models in turns, so that the load of the machine affects all alike.

        Args:
            models: in evaluation mode; the first is the dense model.
            seconds: approximate duration, of at least 7 turns; None: as long as a comparison of two models needs.

        Returns:
            Milliseconds [models, turns]; entries of one turn are measured at about the same time.

        Raises:
            TrimformerError: a model cannot be run.
        """


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass.

    Attributes:
        inputs: keyword arguments of a model's forward.
        backend: what runs it.
        pruned_inputs: inputs of all models but the first, if these have other token ids.
    """

    inputs: Mapping[str, Tensor]
    backend: Backend = "eager"
    pruned_inputs: Mapping[str, Tensor] | None = None

    def time(self, models: Iterable[PreTrainedModel], seconds: float | None = None) -> list[list[float]]:
        """See `Workload`."""
        dense, *others = models
        others_inputs = self.inputs if self.pruned_inputs is None else self.pruned_inputs
        calls = [prepare(dense, self.inputs, self.backend)]
        calls += [prepare(model, others_inputs, self.backend) for model in others]
        return interleaved(calls, dense.device, seconds=3.0 if seconds is None else seconds)


@dataclass(frozen=True)
class LlamaCppRun:
    """The prefill of a prompt in llama.cpp, or one token that is decoded after it, by llama.cpp's own clock.

    Every model is written to a temporary GGUF file. Of decoding, the time of a token is the mean over some tokens after
    the prompt.

    Attributes:
        quantize: type of the GGUF files.
        phase: what is timed.
        tokens: of the prompt.
    """

    quantize: Quantization
    phase: Phase
    tokens: int

    @classmethod
    def of(cls, model: PreTrainedModel, options: GgufOptions) -> "LlamaCppRun":
        """The run that the options describe, by default the decoding of a token after 512, or what the model takes.

        Raises:
            TrimformerError: the model does not take that many tokens.
        """
        phase = options.phase or "decode"
        generated = _generated(phase)
        longest = max_positions(model.config, (options.context or DEFAULT_TIMED_CONTEXT) + generated) - generated
        if longest < (options.context or 1):
            raise TrimformerError(
                f"a context of {options.context or 1} tokens and {generated} generated ones are more than the model "
                f"takes, {longest + generated}; give a smaller --context"
            )
        return cls(options.quantize, phase, options.context or min(DEFAULT_TIMED_CONTEXT, longest))

    def time(self, models: Iterable[PreTrainedModel], seconds: float | None = None) -> list[list[float]]:
        """See `Workload`; one model at a time is in memory, if `models` makes them one by one."""
        prompt = Prompt(self.tokens)
        with temporary_directory() as folder:
            files = []
            for i, model in enumerate(models):
                prompt.fit(model)
                files.append(folder / f"{i}.gguf")
                write_timed_file(files[-1], model, self.quantize)
            laps = time_in_turns(
                files,
                prompt.ids,
                _generated(self.phase),
                threads=torch.get_num_threads(),
                seconds=30.0 if seconds is None else seconds,  # a prompt takes a second
                keep_prompt=self.phase == "decode",
                least=MIN_TURNS,
            )
        if self.phase == "decode":
            return [[times.decode for times in turns] for turns in laps]
        return [[self.tokens * times.prefill for times in turns] for turns in laps]


def _generated(phase: Phase) -> int:
    """Returns the tokens to generate: llama.cpp counts the first one as prefill."""
    return GENERATED if phase == "decode" else 1
