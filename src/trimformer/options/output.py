"""What the command line writes, and where."""

from dataclasses import dataclass
from typing import Any, get_args

from trimformer.errors import TrimformerError, quoted
from trimformer.options.checks import check_flag
from trimformer.options.choices import ONNX, Backend, Quantization
from trimformer.options.option import check_options, option

_GGUF: dict[str, Quantization] = {f"gguf-{kind}": kind for kind in get_args(Quantization)}


def _words(value: Any) -> list[str]:
    """Returns the kinds of files that a value names, each once."""
    return list(dict.fromkeys(str(value).lower().replace(",", " ").split()))


def _check_export(name: str, value: Any) -> None:
    """Checks that a value names files of one format.

    Raises:
        TrimformerError: a kind is unknown, none is named, or the kinds contradict each other.
    """
    words, known = _words(value), (*ONNX, *_GGUF)
    unknown = next((word for word in words if word not in known), None if words else value)
    if unknown is not None:
        raise TrimformerError(f"--{name} {quoted(unknown)} is unknown; known are {', '.join(known)}")
    if len(words) > 1 and not set(words) <= _GGUF.keys():
        raise TrimformerError(
            f"--{name} {quoted(value)} names files of several runtimes; give onnx, onnx-int8, or types of GGUF files "
            "separated by commas"
        )


@dataclass(frozen=True)
class OutputOptions:
    """What `trimformer prune` and `trimformer sweep` write. All are flags only."""

    standalone: bool = option(
        False,
        "write a file of code too, with which the result loads without trimformer, given trust_remote_code=True",
        check=check_flag,
        keyword=False,
    )
    export: str | None = option(
        None,
        "write files for another runtime too, in the folder onnx or gguf, and compare them with the dense model's: "
        "onnx (float32), onnx-int8 (eight bits too), or gguf-TYPE, such as gguf-q8_0,gguf-q4_0, for llama.cpp",
        check=_check_export,
        read=str,
        metavar="KIND",
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

    @property
    def onnx(self) -> Backend | None:
        """The kind of ONNX files to write."""
        return next((kind for kind in ONNX if [kind] == _words(self.export or "")), None)

    @property
    def gguf(self) -> list[Quantization]:
        """The types of the GGUF files to write."""
        return [_GGUF[word] for word in _words(self.export or "") if word in _GGUF]
