"""Generated images and sounds, with their processors and tiny models."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from tests.conftest import make_tokenizer

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
NAMES = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
RATE = 1000


def make_pixels(seed: int = 0, height: int = 20, width: int = 30) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_image(path: Path, seed: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_pixels(seed)).convert(mode).save(path)
    return path


def make_wave(samples: int = 600, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def save_sound(path: Path, samples: int = 600, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = make_wave(samples, seed)
    soundfile.write(path, wave if channels == 1 else np.stack([wave] * channels, 1), rate)
    return path


def image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 16, "width": 16})


def image_model(**overrides: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = ViTConfig(image_size=16, patch_size=8, **SIZES, **{**NAMES, **overrides})
    return ViTForImageClassification(config).eval()


def extractor(*, mask: bool = True) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=mask)


def audio_model(head: type = Wav2Vec2ForSequenceClassification, **overrides: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = Wav2Vec2Config(vocab_size=20, **SIZES, **convolutions, **positions, **{**NAMES, **overrides})
    return head(config).eval()


def clip_processor() -> CLIPProcessor:
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return CLIPProcessor(image_processor=images, tokenizer=make_tokenizer())


def clip_model() -> PreTrainedModel:
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": 60, "max_position_embeddings": 20, "eos_token_id": 2}
    vision = {**SIZES, "image_size": 16, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
