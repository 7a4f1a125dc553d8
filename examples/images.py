"""Provides real images and a small vision transformer trained on them, cached outside the repository.

- Fashion-MNIST, 28x28 photographs of ten kinds of clothes, from Debian's package `dataset-fashion-mnist` (MIT).
"""

import gzip
import math
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from assets import CACHE, _cached
from PIL import Image
from torch.nn import functional

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
_PACKAGE = "dataset-fashion-mnist"
_INSTALLED = Path("usr/share/datasets/fashion-mnist")  # in the package, and below / after installation
_MEAN, _STD = 0.286, 0.353  # of the training split's pixels


def images() -> Path:
    """Returns a folder of train/<class>/*.png (20,000) and validation/<class>/*.png (1,500 test images), 28x28 RGB."""

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = _fashion_mnist(Path(folder))
            for split, prefix, count in (("train", "train", 20_000), ("validation", "t10k", 1_500)):
                pixels = _idx(source / f"{prefix}-images-idx3-ubyte.gz")
                labels = _idx(source / f"{prefix}-labels-idx1-ubyte.gz")
                for name in CLASSES:
                    (target / split / name).mkdir(parents=True)
                for i in range(count):
                    path = target / split / CLASSES[labels[i]] / f"{i:05d}.png"
                    Image.fromarray(pixels[i]).convert("RGB").save(path)

    return _cached("fashion-mnist", make)


def _fashion_mnist(folder: Path) -> Path:
    """Returns the folder of the four .gz files: installed, put into the cache by hand, or fetched into `folder`."""
    by_hand = CACHE / "fashion-mnist-idx"
    for path in (Path("/") / _INSTALLED, by_hand):
        if path.is_dir():
            return path
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SystemExit(
            f"Fashion-MNIST comes from the package {_PACKAGE} of Debian and Ubuntu; "
            f"elsewhere, put its four *-ubyte.gz files into {by_hand}"
        )
    print(f"fetching {_PACKAGE} from the package registry ...", flush=True)
    subprocess.run(["apt-get", "-qq", "download", _PACKAGE], cwd=folder, check=True)
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder], check=True)
    return folder / _INSTALLED


def _idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4).tolist()
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def vit(*, epochs: int = 2, batch: int = 50, learning_rate: float = 1e-3) -> Path:
    """Trains a ViT on `images()`, once, and returns its directory (7x7 patches, 6 layers, hidden size 128)."""

    def make(target: Path) -> None:
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

        data = images()
        names = sorted(CLASSES)  # the order of an imagefolder's labels
        print("training a ViT on Fashion-MNIST, once ...", flush=True)
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=28,
            patch_size=7,
            hidden_size=128,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=512,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
        model = ViTForImageClassification(config)
        pixels, labels = _tensors(data / "train", names)
        steps = epochs * (len(labels) // batch)
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, 20 * step / steps) * (1 + math.cos(math.pi * step / steps)) / 2
        )
        start = time.perf_counter()
        model.train()
        for step in range(steps):
            if step % (steps // epochs) == 0:
                order = torch.randperm(len(labels))
            chosen = order[step % (steps // epochs) * batch :][:batch]
            logits = model(pixel_values=pixels[chosen]).logits
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 100 == 99:
                print(f"  step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
        seconds = time.perf_counter() - start
        accuracy = _accuracy(model, *_tensors(data / "validation", names))
        print(f"  accuracy {accuracy:.4f} after {seconds:.0f} s", flush=True)
        model.save_pretrained(target)
        size = {"height": 28, "width": 28}
        ViTImageProcessorPil(size=size, image_mean=[_MEAN] * 3, image_std=[_STD] * 3).save_pretrained(target)

    return _cached("ViT-6x128-fashion-mnist", make)


def _tensors(folder: Path, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    paths = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path)) for path, _ in paths]).transpose(0, 3, 1, 2)
    values = (torch.from_numpy(pixels).float() / 255 - _MEAN) / _STD
    return values, torch.tensor([label for _, label in paths])


@torch.no_grad()
def _accuracy(model: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    predictions = torch.cat([model(pixel_values=part).logits.argmax(-1) for part in pixels.split(100)])
    return (predictions == labels).float().mean().item()


if __name__ == "__main__":
    print(images())
    print(vit())
