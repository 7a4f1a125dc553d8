"""Exports dense and pruned causal language models to GGUF, and compares the files with PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.errors import TrimformerError, one_sentence
from trimformer.export.gguf.architecture import Architecture, choose_architecture
from trimformer.export.gguf.tensors import list_tensors
from trimformer.export.gguf.tokenizer import describe_tokenizer
from trimformer.export.gguf.verify import FileComparison, check_exact, compare, runtime_name
from trimformer.export.gguf.write import write_file
from trimformer.options.choices import Quantization
from trimformer.utils.packages import check_packages


@dataclass(frozen=True)
class GgufFile:
    """A written file.

    Attributes:
        path: of the file.
        size: in bytes.
        comparison: with PyTorch; None for an unverified file.
    """

    path: Path
    size: int
    comparison: FileComparison | None


@dataclass(frozen=True)
class GgufExport:
    """The files of one model.

    Attributes:
        files: in the order asked for.
        architecture: of llama.cpp.
        tokenizer: llama.cpp's names of the tokenizer and of its split into words.
        exact: comparison of the file in float32, which was removed again unless asked for; None if unverified.
        other_ends: tokens that end generation in Transformers and not in llama.cpp.
    """

    files: tuple[GgufFile, ...]
    architecture: Architecture
    tokenizer: str
    exact: FileComparison | None
    other_ends: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Returns what a user of the files has to know, in phrases."""
        notes = list(self.architecture.notes)
        if self.other_ends:
            notes.append(f"llama.cpp does not stop at {', '.join(self.other_ends)}, as generation in Transformers does")
        if self.exact is not None and self.exact.chat is not None:
            notes.append(f"llama.cpp writes a conversation {'as' if self.exact.chat else 'unlike'} Transformers")
        return notes

    def __str__(self) -> str:
        """Returns the table of the files, and what was compared."""
        width = max(len(file.path.name) for file in self.files)
        lines = [f"{'':{width}} {'MB':>8}  {'greedy tokens as PyTorch':>24}  {'KL (nats)':>9}"]
        for file in self.files:
            result = file.comparison
            figures = f"{result.equal:>12} of {result.tokens:<8}  {result.divergence:9.1e}" if result else "unverified"
            lines.append(f"{file.path.name:{width}} {file.size / 1e6:8.1f}  {figures:>24}")
        facts = [f"architecture {self.architecture.name}, {len(self.architecture.layers)} layers"]
        facts += [f"tokenizer {self.tokenizer}", *self.notes]
        if self.exact is not None:
            facts.append(
                f"{runtime_name()} in float32: {self.exact.equal} of {self.exact.tokens} greedy tokens as PyTorch "
                f"{torch.__version__}, KL {self.exact.divergence:.1e} nats"
            )
        return "\n".join([*lines, "", *facts])


def check_gguf(verified: bool = True) -> None:
    """Checks that the packages for GGUF files are installed.

    Args:
        verified: whether the files are compared with PyTorch, which needs llama.cpp.

    Raises:
        TrimformerError: a package is missing.
    """
    check_packages("GGUF files need", ("gguf",), "gguf")
    if verified:
        try:
            check_packages("GGUF files need", ("xllamacpp",), "gguf")
        except TrimformerError as error:
            raise TrimformerError(
                f"{error}; it runs llama.cpp, in which files are compared with PyTorch, or write them uncompared with "
                "`trimformer export --format gguf --unverified`"
            ) from None


def export_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    quantizations: Sequence[Quantization],
    *,
    verified: bool = True,
    name: str = "model",
    dense: PreTrainedModel | None = None,
) -> GgufExport:
    """Writes GGUF files `model-Q8_0.gguf` and the like into a folder.

    A file in float32 is always compared first: its greedy tokens must be PyTorch's. Quantized files must run.

    Args:
        model: in float32 on the CPU; left unchanged.
        tokenizer: of the model.
        folder: an existing folder.
        quantizations: types of the files.
        verified: compare the files with PyTorch in llama.cpp.
        name: of the model, for people.
        dense: the model before pruning, in float32 on the CPU, to compare the files with too.

    Raises:
        TrimformerError: llama.cpp has no graph or tokenizer for this model, or computes something else.
    """
    check_gguf(verified)
    architecture = choose_architecture(model)
    vocabulary = describe_tokenizer(tokenizer, model)
    tensors = list(list_tensors(model, architecture))

    def write(path: Path, quantization: Quantization) -> None:
        with one_sentence(f"'{path.name}' cannot be written"):
            write_file(path, model, architecture, tensors, vocabulary, quantization, name)

    exact = None
    written: dict[Quantization, GgufFile] = {}
    if verified:
        path = folder / _file_name("f32")
        write(path, "f32")
        exact = compare(path, model, tokenizer, check_tokenizer=True, dense=dense)
        check_exact(exact, path)
        written["f32"] = GgufFile(path, path.stat().st_size, exact)
        if "f32" not in quantizations:
            path.unlink()
    for quantization in quantizations:
        if quantization not in written:
            path = folder / _file_name(quantization)
            write(path, quantization)
            result = compare(path, model, tokenizer, dense=dense) if verified else None
            written[quantization] = GgufFile(path, path.stat().st_size, result)
    files = tuple(written[quantization] for quantization in quantizations)
    split = f" ({vocabulary.pre})" if vocabulary.model == "gpt2" else ""
    others = tuple(vocabulary.tokens[token] for token in vocabulary.other_ends)
    return GgufExport(files, architecture, f"{vocabulary.model}{split}", exact, others)


def _file_name(quantization: Quantization) -> str:
    """Returns the name by which llama.cpp finds a file of this type in a folder or on the hub."""
    return f"model-{quantization.upper()}.gguf"
