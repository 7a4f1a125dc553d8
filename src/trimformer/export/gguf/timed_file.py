"""Times a GGUF file in llama.cpp, again and again, in a process that keeps it loaded."""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from transformers import PreTrainedModel

from trimformer.errors import TrimformerError, one_sentence
from trimformer.export.gguf.architecture import choose_architecture
from trimformer.export.gguf.runtime_process import ANSWER
from trimformer.export.gguf.tensors import list_tensors
from trimformer.export.gguf.tokenizer import GgufVocabulary
from trimformer.export.gguf.verify import failure_reason, runtime_name
from trimformer.export.gguf.watched_process import killed_if_hanging
from trimformer.export.gguf.write import write_file
from trimformer.options.choices import Quantization

logger = logging.getLogger(__name__)


def write_timed_file(path: Path, model: PreTrainedModel, quantization: Quantization) -> None:
    """Writes the GGUF file of a model for timing: its weights, with placeholders for the texts of the tokens.

    Raises:
        TrimformerError: llama.cpp has no graph that computes this model, or a tensor cannot be encoded.
    """
    import gguf

    architecture = choose_architecture(model)
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    # Its loader wants one merge at the least. Requests consist of token ids, so nothing is ever split into tokens.
    vocabulary = GgufVocabulary(
        "gpt2", [f"t{i}" for i in range(rows)], [int(gguf.TokenType.NORMAL)] * rows, pre="gpt-2", merges=["t 0"]
    )
    tensors = list(list_tensors(model, architecture))
    with one_sentence(f"'{path.name}' cannot be written"):
        write_file(path, model, architecture, tensors, vocabulary, quantization, "timed")


class TokenTimes(NamedTuple):
    """Milliseconds per token, by llama.cpp's own clock.

    Attributes:
        prefill: of a prompt's tokens, which are computed together.
        decode: of tokens that are generated one by one, after the prompt.
    """

    prefill: float
    decode: float


class TimedFile:
    """A file in a llama.cpp process, from `with` until its end.

    Args:
        path: of the file.
        context: tokens of the key-value cache.
        threads: for computing.
    """

    def __init__(self, path: Path, context: int, threads: int) -> None:
        self._path = path
        self._request = {"file": str(path), "context": context, "threads": threads, "timed": True}

    def __enter__(self) -> Self:
        """Starts the process; a file that cannot be loaded is an error of the first measurement."""
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")
        self._start()
        return self

    def _start(self) -> None:
        script = str(Path(__file__).with_name("runtime_process.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
        )
        self._send(self._request)

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def time(self, prompt: Sequence[int], generated: int, *, keep_prompt: bool = False) -> TokenTimes:
        """Times the prefill of a prompt and the tokens that are generated after it.

        Args:
            prompt: token ids.
            generated: number of tokens to generate; the time of the first belongs to the prefill.
            keep_prompt: whether a prompt that is still in the cache from the measurement before is not computed again,
                so that `prefill` is that of its last token only.

        Raises:
            TrimformerError: llama.cpp cannot load or run the file, crashes, or hangs twice.
        """
        request = {"prompt": list(prompt), "generated": generated, "keep_prompt": keep_prompt}
        for is_restarted in (False, True):
            with killed_if_hanging(self._process) as hung:
                if is_restarted and keep_prompt:
                    self._ask({**request, "keep_prompt": False})
                answer = self._ask(request)
            if answer is not None:
                return answer
            if not hung.is_set() or is_restarted:
                break
            logger.warning("llama.cpp hangs with '%s'; its process is started once more", self._path.name)
            self._process.communicate()
            self._start()
        code = self._process.wait()
        self._errors.seek(0)
        reason = "it hangs" if hung.is_set() else failure_reason(self._errors.read(), code)
        raise TrimformerError(f"{runtime_name()} cannot run '{self._path.name}': {reason}")

    def _ask(self, request: dict[str, Any]) -> TokenTimes | None:
        """Sends a request and returns its times; None if the process ended."""
        self._send(request)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return TokenTimes(**json.loads(line.removeprefix(ANSWER)))
        return None

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # the process has ended; reading its answer says why
            pass
