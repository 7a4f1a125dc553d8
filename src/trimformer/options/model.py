"""What the pruned model looks like: its layout, the widths it may have, and its vocabulary."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from trimformer.errors import TrimformerError
from trimformer.options.checks import POSITIVE, shorten
from trimformer.options.choices import NEURON_MULTIPLE
from trimformer.options.methods import Layout
from trimformer.options.option import check_options, option


def _check_vocabulary(name: str, value: Any) -> None:
    if isinstance(value, str | Path) and str(value):
        return
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TrimformerError(f"{name} is {shorten(value)}; give 'used', a file with one text per line, or texts")


@dataclass(frozen=True)
class ModelOptions:
    """Layout, widths and vocabulary of the pruned model."""

    layout: Layout = option(
        "free",
        "ffn: all heads stay, each layer has its own number of neurons, for runtimes that want one number of heads; "
        "plain: only what the model's own config can express, so that the result loads anywhere (one width, some "
        "layers left out). Both cost accuracy",
        python_help='"free": every sublayer has its own number of units; "ffn": all heads stay, and each layer has its '
        'own number of neurons, for runtimes that want one number of heads; or "plain": only what the model\'s own '
        "config can express, so that the result loads anywhere (one width for all layers, some left out). Both cost "
        "accuracy.",
        choices=get_args(Layout),
    )
    neuron_multiple: int = option(
        NEURON_MULTIPLE,
        "keep neurons in multiples of this number, where dp, ffn or plain allocates (default: %(default)s)",
        python_help='the allocations "dp", "ffn" and "plain" keep neurons in multiples of this number.',
        number=POSITIVE,
    )
    vocabulary: str | Path | Sequence[str] | None = option(
        None,
        "drop the tokens that texts never use, from tokenizer and model: the texts of the data, or of a file with one "
        "text per line; language models can no longer write them",
        python_help="drops the tokens that texts never use, from tokenizer and embeddings: the texts of the data "
        '("used"), of a file with one text per line, or of a list; the result\'s `processor` is the smaller tokenizer. '
        "Language models can no longer write these tokens, and the result's `vocabulary` says what that takes away.",
        check=_check_vocabulary,
        metavar="used|FILE",
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used.
        """
        check_options(self)
