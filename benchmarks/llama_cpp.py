"""Measures dense and pruned language models as GGUF files in llama.cpp: speed, perplexity, divergence and size.

    python benchmarks/llama_cpp.py DENSE_DIR TEXT_FILE --models 80=DIR 70=DIR 50=DIR   # directories that `prune` wrote

Every model is exported in every type (--types) by the functions of `trimformer export`. The files are timed as
`trimformer bench --backend llama.cpp` times them: prefill of a prompt (--prompt) and decoding after it, all files in
turns, each in a process that keeps it loaded. Perplexity and KL divergence, from the dense model in PyTorch in float32,
are of blocks of the text file: llama.cpp computes the last hidden states of all tokens, and the file's output matrix is
applied to them here (llama.cpp would round those states to eight bits once more). Prints Markdown, and writes JSON with
--json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.save_load import load
from trimformer.costs.token_speed import GENERATED, time_files
from trimformer.export.gguf.export import export_gguf
from trimformer.utils.environment import describe_device


def main() -> None:
    """Runs the benchmark, or writes the hidden states of one file."""
    if sys.argv[1:] == ["--worker"]:
        from trimformer.export.gguf.runtime_process import run_and_exit

        run_and_exit(lambda: write_states(json.load(sys.stdin)))
    options = read_options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{describe_device(torch.device('cpu'))}, xllamacpp {version('xllamacpp')}, prompt of "
          f"{options.prompt} tokens, {GENERATED} generated, median of {rows[0]['prefill']['count']}; quality on "
          f"{options.blocks} blocks of {options.block_length} tokens\n")  # fmt: skip
    print("| model | type | MB | prefill, tokens/s | decode, tokens/s | perplexity | KL, nats |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for row in rows:
        speeds = [f"{row[name]['tokens_per_second']:,.0f} ({row[name]['speedup']:.2f}x)" for name in PHASES]
        print(f"| {row['model']} | {row['type']} | {row['bytes'] / 1e6:.0f} | {' | '.join(speeds)} | "
              f"{row['perplexity']:.2f} | {row['kl']:.4f} |")  # fmt: skip


PHASES = ("prefill", "decode")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=DIR")
    parser.add_argument("--types", nargs="+", default=["f16", "q8_0", "q4_0"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=180.0, help="for all turns; at least 3 of them")
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--block-length", type=int, default=512)
    parser.add_argument("--unverified", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row for each file, the first of the dense model in the first type."""
    dense, tokenizer = load(options.dense)
    dense.float().eval()
    ids = tokenizer(options.text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    length = options.block_length
    blocks = [ids[i * length : (i + 1) * length] for i in range(options.blocks)]
    states, head = dense_states(dense, blocks)
    rows = []
    for name, path in [("dense", options.dense), *(text.split("=", 1) for text in options.models)]:
        model, own_tokenizer = load(path)
        (folder / name).mkdir()
        exported = export_gguf(
            model.float().eval(), own_tokenizer, folder / name, options.types, verified=not options.unverified
        )
        for kind, file in zip(options.types, exported.files, strict=True):
            row = {"model": name, "type": kind, "path": str(file.path), "bytes": file.size}
            rows.append(row | quality(file.path, blocks, states, head, options))
    files = [Path(row["path"]) for row in rows]
    speeds = time_files(files, ids[: options.prompt], threads=options.threads, seconds=options.seconds)
    for row, speed_of in zip(rows, speeds, strict=True):
        for phase, speed in speed_of.items():
            row[phase] = {**asdict(speed.ms), "tokens_per_second": speed.tokens_per_second,
                          "speedup": speed.speedup.median}  # fmt: skip
    return rows


@torch.no_grad()
def dense_states(model: PreTrainedModel, blocks: list[list[int]]) -> tuple[list[Tensor], Tensor]:
    """The last hidden states of each block [tokens, hidden], and the output matrix."""
    inner: Any = model.model
    head: Any = model.get_output_embeddings()
    states = [inner(input_ids=torch.tensor([block]), use_cache=False).last_hidden_state[0] for block in blocks]
    return states, head.weight.detach()


def quality(
    path: Path, blocks: list[list[int]], states: list[Tensor], head: Tensor, options: argparse.Namespace
) -> dict[str, float]:
    """Perplexity of the blocks, and mean KL divergence from the dense model's predictions."""
    answer = str(path.with_suffix(".npy"))
    request = {"file": str(path), "blocks": blocks, "threads": options.threads, "answer": answer}
    command = [sys.executable, __file__, "--worker"]
    text = json.dumps({**request, "context": options.block_length + 8})
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    output = output_matrix(path)
    loss, divergence, count = 0.0, 0.0, 0
    for block, dense, array in zip(blocks, states, np.load(answer), strict=True):
        theirs = torch.log_softmax(torch.from_numpy(array)[:-1] @ output.T, dim=-1)
        ours = torch.log_softmax(dense[:-1] @ head.T, dim=-1)
        loss -= float(theirs.gather(1, torch.tensor(block[1:])[:, None]).sum())
        divergence += float((ours.exp() * (ours - theirs)).sum())
        count += len(block) - 1
    return {"perplexity": float(np.exp(loss / count)), "kl": divergence / count}


def output_matrix(path: Path) -> Tensor:
    """The output matrix of a file, [tokens, hidden]."""
    import gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensor = tensors.get("output.weight", tensors["token_embd.weight"])
    return torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))


def write_states(request: dict[str, Any]) -> None:
    """Runs blocks of tokens in llama.cpp and writes their last hidden states to a file."""
    import xllamacpp

    from trimformer.export.gguf.runtime_process import post

    params = xllamacpp.CommonParams()
    params.model.path = request["file"]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = request["context"], 1, 0
    params.n_batch = params.n_ubatch = request["context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.fit_params, params.cache_ram_mib = False, 0
    params.embedding, params.embd_normalize = True, -1
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
    server = xllamacpp.Server(params)
    answers = [post(server, "/embedding", content=block) for block in request["blocks"]]
    np.save(request["answer"], np.array([answer[0]["embedding"] for answer in answers], dtype=np.float32))


if __name__ == "__main__":
    main()
