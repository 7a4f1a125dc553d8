"""How a model directory is read."""

from dataclasses import dataclass

from trimformer.options.checks import check_name
from trimformer.options.choices import DTYPES
from trimformer.options.option import check_options, option


@dataclass(frozen=True)
class LoadOptions:
    """How the weights of a model directory become a model; `trimformer.load` takes these as keywords."""

    model_type: str | None = option(
        None,
        "type of a model whose config.json states none, such as bert",
        check=check_name,
        metavar="TYPE",
        keyword=False,
    )
    dtype: str | None = option(
        None,
        "dtype to load the model in (default: the checkpoint's own); pruned models are saved in it; on a CPU without "
        "instructions for bfloat16, float32 is many times faster",
        choices=DTYPES,
        keyword=False,
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used.
        """
        check_options(self)
