"""Which rows a run reads, what their columns mean, and how many samples it draws."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimformer.errors import TrimformerError
from trimformer.options.checks import POSITIVE, check_column, check_column_names, check_name
from trimformer.options.option import check_options, option

NUM_SAMPLES = 2048  # the paper's
NUM_BLOCKS = 256  # of language models; a block has as many tokens as ten sentences


@dataclass(frozen=True)
class DataOptions:
    """Rows, columns and samples.

    `data`, `eval_data`, `task` and `max_length` are flags only: Python gives rows and a `Task`.
    """

    data: str | None = option(
        None,
        "JSON lines, CSV, TSV, text, Parquet, a folder of <split> files, of images or of sounds by class, or a "
        "datasets.save_to_disk folder",
        flags=("--data", "--data-dir", "--data_dir"),
        metavar="FILE_OR_DIR",
        keyword=False,
    )
    task: str | None = option(
        None,
        "a known task (mrpc, squad, ...); default: inferred from the model and the columns",
        check=check_name,
        keyword=False,
    )
    text_column: str | Sequence[str] | None = option(
        None,
        "one text column, or two for pairs",
        python_help="the column of texts, or two for pairs; None guesses it from the usual names.",
        check=check_column_names,
        metavar="NAME",
        several=True,
    )
    label_column: str | None = option(
        None,
        "the column of labels",
        python_help="the column of labels; None guesses it.",
        check=check_column,
        metavar="NAME",
    )
    generate: str | None = option(
        None,
        "for language models: the dense model answers the prompts of the text column, and the answers count",
        python_help='for language models: "greedy" or "sample": the dense model answers the prompts of the text '
        "column, and only the answers count.",
        choices=("greedy", "sample"),
    )
    max_length: int | None = option(
        None,
        "tokens beyond which a sample is cut (default: the model's limit, for questions 384, for a known task its own)",
        number=POSITIVE,
        keyword=False,
    )
    eval_data: str | None = option(
        None,
        "rows to score on (default: the validation split of --data, or a fifth of its rows)",
        metavar="FILE_OR_DIR",
        keyword=False,
    )
    num_samples: int | None = option(
        None,
        "calibration examples (default: 2048; for language models 256 blocks of tokens)",
        python_help="calibration examples, drawn without replacement; None: 2,048, and for language models 256 blocks "
        "of tokens.",
        number=POSITIVE,
    )
    batch_size: int = option(
        32,
        "samples in a batch, as long as they have no more than 4,096 tokens (default: %(default)s)",
        python_help="samples in a batch, for calibration and evaluation; the result does not depend on it.",
        number=POSITIVE,
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used, or columns are named for a task that fixes them.
        """
        check_options(self)
        if self.task and (self.text_column or self.label_column):
            raise TrimformerError("--task gives the columns; leave out --text-column and --label-column")

    def samples_of(self, problem: str) -> int:
        """Returns the number of calibration samples for a kind of output."""
        return self.num_samples or (NUM_BLOCKS if problem == "language" else NUM_SAMPLES)

    @property
    def text_columns(self) -> list[str] | None:
        """The text columns as a list."""
        if self.text_column is None:
            return None
        return [self.text_column] if isinstance(self.text_column, str) else list(self.text_column)
