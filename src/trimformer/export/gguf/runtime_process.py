"""Runs a GGUF file in llama.cpp, in a process of its own, because llama.cpp ends its process on some bad files.

The process reads a line of JSON from its standard input: what to run. To compare, it writes JSON to the file that the
line names. To time, it answers each further line with one on its standard output. It imports nothing of trimformer.
"""

import json
import os
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER = "trimformer-answer: "  # begins a line of the standard output, where llama.cpp may write too


def main() -> None:
    """Answers the requests of one file."""
    import xllamacpp

    request = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path = request["file"]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = request["context"], 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.warmup, params.fit_params, params.cache_ram_mib = False, False, 0
    if request.get("timed"):
        _time(xllamacpp.Server(params))
        return
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    answer: dict[str, Any] = {"generated": [_generate(server, ids, request) for ids in request["prompts"]]}
    answer["token_ids"] = [
        post(server, "/tokenize", content=text, add_special=special, parse_special=True)["tokens"]
        for text, special in request["texts"]
    ]
    if request["chat"]:
        try:
            answer["chat"] = post(server, "/apply-template", messages=request["chat"])["prompt"]
        except urllib.error.HTTPError:  # llama.cpp does not know all of Jinja
            answer["chat"] = None
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def _time(server: Any) -> None:
    """Times prompts and generated tokens, in milliseconds per token, one request a line."""
    for line in sys.stdin:
        request = json.loads(line)
        body = {"prompt": request["prompt"], "n_predict": request["generated"], "cache_prompt": request["keep_prompt"]}
        timings = post(server, "/completion", temperature=0, top_k=1, ignore_eos=True, **body)["timings"]
        answer = {"prefill": timings["prompt_per_token_ms"], "decode": timings["predicted_per_token_ms"]}
        print(f"\n{ANSWER}{json.dumps(answer)}", flush=True)


def _generate(server: Any, ids: list[int], request: dict[str, Any]) -> dict[str, Any]:
    """Returns the greedy continuation of token ids, and the likeliest tokens at each position where there are any.

    Tokens are requested one by one: the server returns no probabilities of tokens that end within a letter, without a
    mark of which ones it leaves out. Its cache keeps the tokens before.
    """
    tokens: list[int] = []
    top = []
    for _ in range(request["tokens"]):
        answer = post(server, "/completion", prompt=ids + tokens, n_predict=1, temperature=0, top_k=1,
                       n_probs=request["top"], return_tokens=True)  # fmt: skip
        if not answer["tokens"]:
            break
        steps = answer.get("completion_probabilities") or [{"top_logprobs": []}]
        tokens.append(answer["tokens"][0])
        top.append([(token["id"], token["logprob"]) for token in steps[0]["top_logprobs"]])
        if answer["stop_type"] == "eos":
            break
    return {"tokens": tokens, "top": top}


def post(server: Any, path: str, **body: Any) -> Any:
    """Sends a request to the server's own HTTP address and returns the answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def run_and_exit(run: Callable[[], None]) -> None:
    """Runs a function and ends the process at once: Python's own end waits forever for threads of a failed server."""
    try:
        run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    run_and_exit(main)
