"""What the command line writes, and where."""

from dataclasses import dataclass
from typing import Literal, get_args

from trimformer.options.checks import check_flag
from trimformer.options.option import check_options, option

ExportKind = Literal["onnx", "onnx-int8"]


@dataclass(frozen=True)
class OutputOptions:
    """What `trimformer prune` and `trimformer sweep` write. All are flags only."""

    standalone: bool = option(
        False,
        "write a file of code too, with which the result loads without trimformer, given trust_remote_code=True",
        check=check_flag,
        keyword=False,
    )
    export: ExportKind | None = option(
        None,
        "write ONNX files too, in the folder onnx: in float32, or also in eight bits; the table shows them beside the "
        "dense model's",
        choices=get_args(ExportKind),
        keyword=False,
    )
    resume: bool = option(
        False,
        "keep the result of calibration beside the output, hidden, until the output is complete; a run that was cut "
        "short continues from there",
        check=check_flag,
        keyword=False,
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used.
        """
        check_options(self)
