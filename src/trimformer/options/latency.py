"""How latency is measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from trimformer.errors import TrimformerError
from trimformer.options.checks import POSITIVE, check_flag, shorten
from trimformer.options.choices import LLAMA_CPP, AnyBackend
from trimformer.options.option import check_options, option

if TYPE_CHECKING:
    from trimformer.costs.lookup_tables import LatencyTable


DEFAULT_BATCH_SIZE = 32


def _check_table(name: str, value: Any) -> None:
    if isinstance(value, str | Path) or hasattr(value, "levels"):  # a LatencyTable, which needs torch
        return
    raise TrimformerError(f"{name} is {shorten(value)}; give the directory that `trimformer lut` wrote, or a table")


@dataclass(frozen=True)
class LatencyOptions:
    """How latency is measured, for a latency budget and for the report.

    Attributes:
        batch_size: samples of the inputs that are timed; None: 32, for language models 1, or that of the table.
        seq_len: tokens of these inputs; None: the average length of the calibration samples.
        backend: what runs the model; how llama.cpp does is said by `GgufOptions`.
        table: latency of sublayers, or the directory where `trimformer lut` wrote it; None: measured before pruning.
            Its shape and backend replace those here.
        any_table: whether a table that was measured elsewhere is accepted.
    """

    batch_size: int | None = option(
        None,
        "samples of a batch in latency measurements (default: 32, for language models 1, or that of the tables)",
        number=POSITIVE,
        flags=("--bs",),
        keyword=False,
    )
    seq_len: int | None = option(
        None,
        "tokens of a sample in latency measurements (default: the calibration samples' mean); for language models also "
        "tokens of a block of text (default: 512, or the model's limit)",
        number=POSITIVE,
        keyword=False,
    )
    backend: AnyBackend = option(
        "eager",
        f"what runs the model; {LLAMA_CPP} times one phase of language models as GGUF files",
        choices=get_args(AnyBackend),
        keyword=False,
    )
    table: "LatencyTable | str | Path | None" = option(
        None,
        "tables of `trimformer lut` (default: measured before pruning)",
        check=_check_table,
        flags=("--lut",),
        metavar="DIR",
        keyword=False,
    )
    any_table: bool = option(
        False, "use tables that were measured elsewhere", check=check_flag, flags=("--any-lut",), keyword=False
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used, `any_table` is set without a table, or llama.cpp is to run several
                texts or to use a table.
        """
        check_options(self)
        if self.any_table and self.table is None:
            raise TrimformerError("any_table accepts tables that were measured elsewhere; give a table too")
        if self.backend == LLAMA_CPP and self.batch_size not in (None, 1):
            raise TrimformerError(f"{LLAMA_CPP} is timed on one text at a time, not {self.batch_size}; leave out --bs")
        if self.backend == LLAMA_CPP and self.table is not None:
            raise TrimformerError(f"tables of {LLAMA_CPP} are always measured before pruning; leave out --lut")
