"""All options of a run beside its budgets and methods, as one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from trimformer.errors import TrimformerError
from trimformer.options.choices import LLAMA_CPP, NEURON_MULTIPLE, Metric
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.gguf import GgufOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.methods import AnyMethod, Method, WholeMethod, polishes
from trimformer.options.model import ModelOptions
from trimformer.options.option import options_from
from trimformer.options.polish import PolishOptions


@dataclass(frozen=True)
class RunOptions:
    """Options that a single budget and a sweep share.

    Attributes:
        data: columns and samples.
        model: layout, widths and vocabulary of the result.
        latency: how latency is measured.
        polish: what a polish trains on and may cost.
        execution: memory, precision, seed, device.
        gguf: how llama.cpp runs the model.
    """

    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    polish: PolishOptions = field(default_factory=PolishOptions)
    execution: ExecutionOptions = field(default_factory=ExecutionOptions)
    gguf: GgufOptions = field(default_factory=GgufOptions)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options from values by option name, such as the keywords of `trimformer.prune`.

        Raises:
            TrimformerError: a value cannot be used.
        """
        latency, gguf = values.get("latency"), values.get("gguf")
        if not isinstance(gguf, GgufOptions | None):
            raise TrimformerError(f"gguf is of type {type(gguf).__name__}; give trimformer.GgufOptions")
        if not isinstance(latency, LatencyOptions | None):
            raise TrimformerError(f"latency is of type {type(latency).__name__}; give trimformer.LatencyOptions")
        return cls(
            options_from(DataOptions, {**values, "task": None}),
            options_from(ModelOptions, values),
            latency or LatencyOptions(),
            options_from(PolishOptions, values),
            options_from(ExecutionOptions, values),
            gguf or GgufOptions(),
        )

    def check(self, methods: Sequence[AnyMethod], metric: Metric) -> None:
        """Checks methods against the metric and against these options.

        Raises:
            TrimformerError: a method does not support the metric or the precision, or an option has no effect on this
                metric, or on any of the methods.
        """
        for method in methods:
            if isinstance(method, WholeMethod) and metric == "latency":
                raise TrimformerError(f"method '{method.name}' does not support latency budgets; use the metric 'mac'")
            if metric == "memory" and (isinstance(method, WholeMethod) or method.allocation == "global"):
                raise TrimformerError(
                    "a memory budget needs an allocation that counts the bytes of every sublayer, such as dp; this "
                    "method takes all units of a kind to cost the same"
                )
            if metric == "memory" and isinstance(method, Method) and method.update == "bias":
                raise TrimformerError(
                    "a memory budget does not count the biases that update 'bias' adds; use another update, or the "
                    "metric mac"
                )
            if isinstance(method, Method) and method.query_heads and metric == "latency":
                raise TrimformerError(
                    "a latency table has no times of single query heads; leave out query_heads (--query-heads), or ask "
                    "for a budget of MACs"
                )
            if isinstance(method, WholeMethod) and self.execution.bf16:
                raise TrimformerError(f"method '{method.name}' runs in float32 only; leave out bf16")
        if not any(map(polishes, methods)) and not self.polish.is_default:
            raise TrimformerError("polish data and a polish budget need a method that polishes, such as obs-polish")
        if self.latency.table is not None and metric != "latency":
            raise TrimformerError(
                f"a latency table (--lut) has no effect on a budget of the metric '{metric}'; ask for the metric "
                "latency or for a latency in ms, or leave it out"
            )
        self._check_gguf(metric)
        multiples = any(isinstance(method, Method) and method.uses_neuron_multiple for method in methods)
        if self.model.neuron_multiple != NEURON_MULTIPLE and not multiples:
            raise TrimformerError(
                "neuron_multiple (--neuron-multiple) has no effect on this method; only the allocations dp, ffn and "
                "plain use it; leave it out"
            )

    def _check_gguf(self, metric: Metric) -> None:
        """Checks that options of llama.cpp are given only where llama.cpp is used.

        Raises:
            TrimformerError: they have no effect.
        """
        if self.latency.backend == LLAMA_CPP:
            return
        if self.gguf.phase is not None:
            raise TrimformerError(
                f"the phase '{self.gguf.phase}' is one of {LLAMA_CPP}, not of the backend '{self.latency.backend}'; "
                f"give --backend {LLAMA_CPP}, or leave out --phase"
            )
        if metric != "memory" and replace(self.gguf, phase=None) != GgufOptions():
            raise TrimformerError(
                f"quantize and context have no effect on a budget of the metric '{metric}'; ask for the metric memory, "
                f"for a memory in MB or for the backend {LLAMA_CPP}, or leave them out"
            )
