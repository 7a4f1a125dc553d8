"""How llama.cpp runs a model."""

from dataclasses import dataclass
from typing import get_args

from trimformer.options.checks import POSITIVE
from trimformer.options.choices import LLAMA_CPP, Phase, Quantization
from trimformer.options.option import check_options, option

DEFAULT_CONTEXT = 4096  # of memory
DEFAULT_TIMED_CONTEXT = 512


@dataclass(frozen=True)
class GgufOptions:
    """How llama.cpp runs a model, for a budget of the metric memory, and for latency with the backend llama.cpp.

    Attributes:
        quantize: type of the GGUF file.
        context: tokens of the key-value cache; None: 4,096, or as many as the model takes. For latency, the tokens of
            the prompt, or those before the token that is decoded; None: 512, or as many as the model takes.
        phase: what latency means: the milliseconds of a prompt, or of one token that is decoded after it; None: decode.
    """

    quantize: Quantization = option(
        "f16",
        f"type of the GGUF file: {', '.join(get_args(Quantization))} (default: %(default)s)",
        choices=get_args(Quantization),
        keyword=False,
        metavar="TYPE",
    )
    context: int | None = option(
        None,
        f"context length in tokens. A memory budget counts a key-value cache of this length (default: "
        f"{DEFAULT_CONTEXT:,}, or the model's limit); --backend {LLAMA_CPP} times a prompt of this length, or a token "
        f"after it (default: {DEFAULT_TIMED_CONTEXT})",
        number=POSITIVE,
        keyword=False,
    )
    phase: Phase | None = option(
        None,
        f"what --backend {LLAMA_CPP} times: prefill, all tokens of a prompt, or decode, one token after it (default: "
        "decode)",
        choices=get_args(Phase),
        keyword=False,
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used.
        """
        check_options(self)
