"""Next-token prediction of language models, on blocks of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.outputs import Problem
from trimformer.data.rows import DOCUMENT, DOCUMENT_SPAN, Rows
from trimformer.data.tasks.base import Task, check_columns
from trimformer.models.layer_calls import NEXT_TOKENS


@dataclass(frozen=True, kw_only=True)
class LanguageTask(Task):
    """Blocks of tokens, as `trimformer.data.language_blocks.as_blocks` makes them; one sample per block."""

    problem: Problem = "language"
    metric: str | None = "perplexity"

    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`."""
        check_columns(rows, ("input_ids", NEXT_TOKENS))
        keys = ("input_ids", NEXT_TOKENS, DOCUMENT, DOCUMENT_SPAN)
        return [{key: row[key] for key in keys if key in row} for row in rows]

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """Returns nothing: `trimformer.evaluation.language` scores outputs as a stream, as they are too large."""
        return {}
