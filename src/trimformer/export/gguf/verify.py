"""Compares a GGUF file in llama.cpp with the model in PyTorch: greedy tokens, log probabilities and the tokenizer."""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.errors import TrimformerError, one_line
from trimformer.export.gguf.graph_families import graph_family_of
from trimformer.export.gguf.watched_process import run_watched
from trimformer.models import max_positions
from trimformer.models.masking import frozen

# None begins with a space: Transformers' Metaspace takes it for the one that it puts before a text, llama.cpp does not.
TEXTS = (
    "The capital of France is",
    "Once upon a time, there was a small village where nobody ever slept.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "In 1969, 3 astronauts flew 384,400 km to the Moon and back; it took 8 days.",
    "Q: What's 12 * (7 + 5)?\nA:",
    "El agua hierve a 100 grados. Größe, naïve, 日本語, привет!",
    "Two  spaces,\ttabs\n\n\nand empty lines;   it's   we'll   I'VE  ",
    "The three primary colors are red, yellow and",
)

TOKENS = 32  # generated after each text
TOP = 1000  # likeliest tokens of which llama.cpp returns the probabilities

_TIE = 1e-4  # nats between two tokens that either runtime may rank first
_LARGEST_DIVERGENCE = 1e-5  # nats; of a file in float32


@dataclass(frozen=True)
class FileComparison:
    """How a file in llama.cpp compares with the model in PyTorch.

    Attributes:
        equal: greedy tokens of llama.cpp that PyTorch ranks first too.
        tokens: greedy tokens of llama.cpp.
        divergence: mean KL divergence of llama.cpp's predictions from PyTorch's, in nats.
        chat: whether both write a conversation as the same text; None without a chat template.
        dense_equal: greedy tokens of llama.cpp that the dense model in PyTorch ranks first too; None if not compared.
        dense_divergence: mean KL divergence from the dense model's predictions, in nats; None if not compared.
    """

    equal: int
    tokens: int
    divergence: float
    chat: bool | None = None
    dense_equal: int | None = None
    dense_divergence: float | None = None


def runtime_name() -> str:
    """Returns the name and the version of the package that runs llama.cpp."""
    return f"llama.cpp (xllamacpp {version('xllamacpp')})"


def compare(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: Sequence[str] | None = None,
    tokens: int | None = None,
    check_tokenizer: bool = False,
    dense: PreTrainedModel | None = None,
) -> FileComparison:
    """Runs a file in llama.cpp and compares its greedy continuations with PyTorch's predictions.

    Models with sliding windows continue one prompt more, which is longer than a window.

    Args:
        path: of the file.
        model: in float32 on the CPU.
        tokenizer: of the model.
        texts: to continue; None: `TEXTS`.
        tokens: to generate after each text; None: `TOKENS`.
        check_tokenizer: compare the token ids of the texts, and a conversation as text, too.
        dense: the model before pruning, in float32 on the CPU, to compare the same continuations with.

    Raises:
        TrimformerError: llama.cpp cannot run the file, or its tokenizer splits a text in another way.
    """
    texts, tokens = TEXTS if texts is None else texts, TOKENS if tokens is None else tokens
    longest = max_positions(model.config, 4096)
    prompts = [ids for text in texts if (ids := tokenizer(text)["input_ids"]) and len(ids) + tokens <= longest]
    if prompts and graph_family_of(model).window_every is not None:
        length = model.config.sliding_window + 8  # the last tokens do not see the first ones
        prompts += [list(islice(cycle(chain(*prompts)), length))] if length + tokens <= longest else []
    if not prompts:
        raise TrimformerError(f"the model is too short for a comparison: it has {longest} positions")
    embeddings: Any = model.get_input_embeddings()
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    template = _conversation(tokenizer, chat) if check_tokenizer else None
    encoded = [(text, True) for text in texts] + ([(template, False)] if template is not None else [])
    request: dict[str, Any] = {
        "file": str(path),
        "threads": torch.get_num_threads(),
        "context": max(map(len, prompts)) + tokens + 8,
        "prompts": prompts,
        "tokens": tokens,
        "top": min(TOP, embeddings.weight.shape[0]),
        "texts": encoded if check_tokenizer else [],
        "chat": chat if template is not None else None,
    }
    answer = run_process(request)
    for (text, special), ids in zip(request["texts"], answer["token_ids"], strict=True):
        if ids != tokenizer(text, add_special_tokens=special)["input_ids"]:
            raise TrimformerError(
                f"llama.cpp splits the text {text[:60]!r} into other tokens than this tokenizer, so a GGUF file cannot "
                "hold it"
            )
    result = _compare_tokens(model, prompts, answer["generated"])
    if template is not None:
        result = replace(result, chat=answer["chat"] == template)
    if dense is not None:
        other = _compare_tokens(dense, prompts, answer["generated"])
        result = replace(result, dense_equal=other.equal, dense_divergence=other.divergence)
    return result


def check_exact(comparison: FileComparison, path: Path) -> None:
    """Checks that a file in float32 predicts what the model predicts.

    Raises:
        TrimformerError: a greedy token differs, or the probabilities do.
    """
    if comparison.equal < comparison.tokens or not comparison.divergence <= _LARGEST_DIVERGENCE:
        raise TrimformerError(
            f"{runtime_name()} predicts something else from '{path.name}' than PyTorch: {comparison.equal} of "
            f"{comparison.tokens} greedy tokens are equal, and the KL divergence is {comparison.divergence:.2g} nats; "
            "nothing was written"
        )


def run_process(request: dict[str, Any]) -> dict[str, Any]:
    """Sends a request to a process that runs llama.cpp; see `runtime_process`.

    Raises:
        TrimformerError: llama.cpp cannot load or run the file, or it crashes.
    """
    script = Path(__file__).with_name("runtime_process.py")
    with tempfile.TemporaryDirectory(prefix="trimformer-") as folder:
        answer = Path(folder) / "answer.json"
        command, line = [sys.executable, "-P", str(script)], json.dumps({**request, "answer": str(answer)})
        done = run_watched(command, line) or run_watched(command, line)
        if done is None or done[0] or not answer.is_file():
            reason = "it hangs" if done is None else failure_reason(done[1], done[0])
            raise TrimformerError(f"{runtime_name()} cannot run '{Path(request['file']).name}': {reason}")
        answered: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return answered


def failure_reason(stderr: str, code: int) -> str:
    """Returns why a process failed: llama.cpp's first error, or its last line.

    Args:
        stderr: what the process wrote.
        code: its exit code, negative for a signal.
    """
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line.split("error loading model: ")[-1] for line in lines if "error loading model: " in line]
    asserts = [line for line in lines if "GGML_ASSERT" in line or "Error:" in line]
    reason = next(iter(errors + asserts + lines[-1:]), "it gives no reason")
    crash = f"it ends with signal {-code}; " if code < 0 else ""
    return f"{crash}{one_line(reason)[:300]}"


def _conversation(tokenizer: Any, chat: list[dict[str, str]]) -> str | None:
    """Returns a conversation as the text that the tokenizer's chat template makes of it; None without a template."""
    if not isinstance(getattr(tokenizer, "chat_template", None), str):
        return None
    try:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except Exception:  # templates raise what they like on conversations that they do not expect
        return None
    return text


@torch.no_grad()
def _compare_tokens(
    model: PreTrainedModel, prompts: Sequence[list[int]], generated: Sequence[dict[str, Any]]
) -> FileComparison:
    """Compares each token of llama.cpp's continuations with PyTorch's prediction from the same tokens before it."""
    equal, count, divergences = 0, 0, list[float]()
    with frozen(model):
        for prompt, answer in zip(prompts, generated, strict=True):
            ids = torch.tensor([[*prompt, *answer["tokens"]]])
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].double()
            predicted = torch.log_softmax(logits, dim=-1)
            for row, token, top in zip(predicted, answer["tokens"], answer["top"], strict=False):
                equal += bool(row.max() - row[token] < _TIE)
                divergences += [_divergence(row, top)] if top else []
            count += len(answer["tokens"])
    return FileComparison(equal, count, sum(divergences) / max(1, len(divergences)))


def _divergence(row: Tensor, top: list[tuple[int, float]]) -> float:
    """Returns the KL divergence, in nats, over llama.cpp's likeliest tokens.

    llama.cpp sums its probabilities in single precision, so they miss 1 by some 1e-4. The terms `q - p` take that out.

    Args:
        row: PyTorch's log probabilities [tokens].
        top: token ids with llama.cpp's log probabilities.
    """
    ours, theirs = row[[token for token, _ in top]], torch.tensor([value for _, value in top], dtype=row.dtype)
    return float((ours.exp() * (ours - theirs) - ours.exp() + theirs.exp()).sum())
