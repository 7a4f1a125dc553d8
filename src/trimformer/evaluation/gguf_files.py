"""Compares the GGUF files of the dense and the pruned model."""

from dataclasses import dataclass

from trimformer.export.gguf.export import GgufExport


@dataclass(frozen=True)
class ComparedGguf:
    """One GGUF file in llama.cpp, compared with PyTorch on greedy continuations of a few texts.

    Attributes:
        name: "dense + q8_0", "pruned + q4_0" and the like.
        bytes: of the file.
        tokens: greedy tokens of llama.cpp.
        equal: those that the same model in PyTorch ranks first too.
        divergence: mean KL divergence from the same model in PyTorch, in nats.
        dense_equal: tokens that the dense model in PyTorch ranks first too.
        dense_divergence: mean KL divergence from the dense model in PyTorch, in nats.
    """

    name: str
    bytes: int
    tokens: int
    equal: int
    divergence: float
    dense_equal: int
    dense_divergence: float


def compared_files(name: str, export: GgufExport) -> list[ComparedGguf]:
    """Returns the comparison of each file of a model of this name."""
    files = []
    for file in export.files:
        found = file.comparison
        assert found is not None
        assert found.dense_equal is not None
        assert found.dense_divergence is not None
        kind = file.path.stem.rpartition("-")[2].lower()
        files.append(
            ComparedGguf(
                f"{name} + {kind}",
                file.size,
                found.tokens,
                found.equal,
                found.divergence,
                found.dense_equal,
                found.dense_divergence,
            )
        )
    return files
