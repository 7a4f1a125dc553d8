"""All options of a run beside its budgets and methods, as one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from trimformer.errors import TrimformerError
from trimformer.options.choices import NEURON_MULTIPLE, Metric
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
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
    """

    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    polish: PolishOptions = field(default_factory=PolishOptions)
    execution: ExecutionOptions = field(default_factory=ExecutionOptions)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options from values by option name, such as the keywords of `trimformer.prune`.

        Raises:
            TrimformerError: a value cannot be used.
        """
        latency = values.get("latency")
        if not isinstance(latency, LatencyOptions | None):
            raise TrimformerError(f"latency is of type {type(latency).__name__}; give trimformer.LatencyOptions")
        return cls(
            options_from(DataOptions, {**values, "task": None}),
            options_from(ModelOptions, values),
            latency or LatencyOptions(),
            options_from(PolishOptions, values),
            options_from(ExecutionOptions, values),
        )

    def check(self, methods: Sequence[AnyMethod], metric: Metric) -> None:
        """Checks methods against the metric and against these options.

        Raises:
            TrimformerError: a method does not support the metric or the precision, or the options ask for a polish
                that no method has.
        """
        for method in methods:
            if isinstance(method, WholeMethod) and metric == "latency":
                raise TrimformerError(f"method '{method.name}' knows no latency table; use the metric 'mac'")
            if isinstance(method, WholeMethod) and self.execution.bf16:
                raise TrimformerError(f"method '{method.name}' runs in float32 only; leave out bf16")
        if not any(map(polishes, methods)) and not self.polish.is_default:
            raise TrimformerError("polish data and a polish budget need a method that polishes, such as obs-polish")

    def check_flags(self, methods: Sequence[AnyMethod], metric: Metric) -> None:
        """Checks that no flag of the command line is without effect; also checks what `check` does.

        Python accepts these combinations, so that a loop over methods and metrics may pass the same keywords.

        Raises:
            TrimformerError: see `check`; or a flag has no effect on this metric, or on any of the methods.
        """
        self.check(methods, metric)
        if self.latency.table is not None and metric != "latency":
            raise TrimformerError(
                f"--lut has no effect on a budget of the metric '{metric}'; give --metric latency or --latency-ms, or "
                "leave it out"
            )
        multiples = any(isinstance(method, Method) and method.uses_neuron_multiple for method in methods)
        if self.model.neuron_multiple != NEURON_MULTIPLE and not multiples:
            raise TrimformerError(
                "--neuron-multiple has no effect on this method; only the allocations dp and plain use it, so leave it "
                "out"
            )
