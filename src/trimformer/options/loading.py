"""How a model directory is read."""

from dataclasses import dataclass

from trimformer.options.checks import check_name
from trimformer.options.option import check_options, option


@dataclass(frozen=True)
class LoadOptions:
    """What a model directory does not say of itself; `trimformer.load` takes it as keywords."""

    model_type: str | None = option(
        None,
        "type of a model whose config.json states none, such as bert",
        check=check_name,
        metavar="TYPE",
        keyword=False,
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used.
        """
        check_options(self)
