"""The inputs of a run, as a user of Python gives them: a model, its processor and rows."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        model: a `PreTrainedModel`, a SentenceTransformer or a CrossEncoder.
        processor: its tokenizer, image processor, feature extractor or processor.
        dataset: examples to calibrate on.
        eval_dataset: examples to score on, or several sets by name; None: a fifth of `dataset`.
        judge_dataset: examples that a quality target is tested on; None: part of `dataset`.
        task: what the columns mean; None: inferred from the model and the columns.
        reading_seconds: seconds that reading the examples took, answers of the dense model included.
    """

    model: Any
    processor: Any
    dataset: Any
    eval_dataset: Any = None
    judge_dataset: Any = None
    task: Task | None = None
    reading_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Checks the types.

        Raises:
            TrimformerError: the processor or the task is a name, or something else.
        """
        if isinstance(self.processor, str | PathLike):
            raise TrimformerError(
                f"processor is the name '{self.processor}'; give what AutoTokenizer.from_pretrained or "
                "trimformer.load returns"
            )
        if isinstance(self.task, str):
            raise TrimformerError(
                f"task is the name '{self.task}'; give trimformer.data.tasks.find_task('{self.task}')"
            )
        if self.task is not None and not isinstance(self.task, Task):
            raise TrimformerError(f"task is of type {type(self.task).__name__}; give a Task, or leave it out")
