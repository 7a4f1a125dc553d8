"""How rows become the blocks of tokens that a language model reads."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self

from trimformer.data.conversations import holds_answer
from trimformer.data.rows import Rows, is_blocks
from trimformer.data.tasks.base import NO_LIMIT, Task
from trimformer.options.data import DataOptions

logger = logging.getLogger(__name__)

FIRST_ROWS = 1000  # that tell the columns
_PROMPTS = 4  # answered for each calibration sample: some are scored, and twice the samples judge a quality target
_MOST_CONVERSATIONS = 2**13  # that are put into a chat template to calibrate or score on


@dataclass(frozen=True)
class BlockOptions:
    """How rows become blocks.

    Attributes:
        columns: the column of texts or messages, or those of prompt and answer; None: guessed from the usual names.
        length: most tokens of a block; None: 512, or the model's limit if it is less.
        generate: "greedy" or "sample": the model answers prompts, and the answers count; None: rows stay as they are.
        seed: of sampled answers, and of the draw of prompts.
        most_prompts: prompts that are answered, drawn at random if there are more; None: all.
        most_rows: conversations, or prompts with answers, drawn at random if there are more; None: all.
    """

    columns: Sequence[str] | None = None
    length: int | None = None
    generate: str | None = None
    seed: int = 0
    most_prompts: int | None = None
    most_rows: int | None = None

    def of_all_rows(self) -> Self:
        """Returns options by which no rows are drawn."""
        return replace(self, most_prompts=None, most_rows=None)

    def keeping_answers(self, rows: Rows, name: str) -> Self:
        """Returns options by which rows that hold answers keep them, and logs it; the model answers other prompts."""
        if not self.generate or not len(rows) or is_blocks(rows) or self.columns:
            return self
        if not any(map(holds_answer, islice(rows, FIRST_ROWS))):
            return self
        logger.info("%s is used with the answers that it holds: none is generated", name)
        return replace(self, generate=None)

    @classmethod
    def of(cls, data: DataOptions, timed_length: int | None = None, task: Task | None = None, seed: int = 0) -> Self:
        """How rows become blocks by the options of a run.

        Args:
            data: columns, answers, and the length of blocks if they say.
            timed_length: of the inputs that are timed, which is that of blocks if `data` does not say.
            task: its longest sample is the length of blocks if nothing else is given.
            seed: of sampled answers.
        """
        task_length = None if task is None or task.max_length == NO_LIMIT else task.max_length
        most = _PROMPTS * data.samples_of("language")
        length = data.max_length or timed_length or task_length
        return cls(data.text_columns, length, data.generate, seed, most, _MOST_CONVERSATIONS)
