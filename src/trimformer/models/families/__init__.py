"""The model families: which function describes the sublayers of which layer class.

Layers are found by the name of their class, whatever model they stand in and under whatever path. A family is a
function from a layer to its sublayers, in the order in which they run; one of a package outside is registered by
`register_family`, or by an entry point of the group `trimformer.families` whose name is the layer's class.
"""

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from trimformer.errors import TrimformerError
from trimformer.models.sublayer import Sublayer

Family = Callable[[Any], Iterable[Sublayer]]

# file of this folder and its function -> layer classes without the ending "Layer", "EncoderLayer", ...
_TABLE = {
    "bert:sublayers": "BertLayer RobertaLayer XLMRobertaLayer CamembertLayer ElectraLayer ErnieLayer RemBertLayer "
    "LayoutLMLayer SplinterLayer Data2VecTextLayer RoFormerLayer MarkupLMLayer RoCBertLayer BertGenerationLayer "
    "BrosLayer TapasLayer AltRobertaLayer ChineseCLIPTextLayer",
    "bert:pre_norm": "XLMRobertaXLLayer RobertaPreLayerNormLayer MegatronBertLayer EsmLayer",
    "distilbert:sublayers": "TransformerBlock",
    "albert:sublayers": "AlbertLayer",
    "mpnet:sublayers": "MPNetLayer",
    "deberta:sublayers": "DebertaV2Layer",
    "modernbert:sublayers": "ModernBertEncoderLayer",
    "t5:sublayers": "T5Block MT5Block UMT5Block",
    "vit:sublayers": "ViTLayer DeiTLayer ViTMAELayer ViTMSNLayer ASTLayer VivitLayer IJepaLayer PixioLayer",
    "dinov2:sublayers": "Dinov2Layer Dinov2WithRegistersLayer DINOv3ViTLayer",
    "clip:sublayers": "CLIPEncoderLayer SiglipEncoderLayer Siglip2EncoderLayer MetaClip2EncoderLayer "
    "AltCLIPEncoderLayer ChineseCLIPVisionLayer",
    "whisper:sublayers": "WhisperEncoderLayer",
    "wav2vec2:sublayers": "Wav2Vec2EncoderLayer HubertEncoderLayer UniSpeechEncoderLayer UniSpeechSatEncoderLayer "
    "SEWEncoderLayer Data2VecAudioEncoderLayer",
    "wav2vec2:pre_norm": "Wav2Vec2EncoderLayerStableLayerNorm HubertEncoderLayerStableLayerNorm "
    "UniSpeechEncoderLayerStableLayerNorm UniSpeechSatEncoderLayerStableLayerNorm",
    "llama:sublayers": "LlamaDecoderLayer MistralDecoderLayer Qwen2DecoderLayer Qwen3DecoderLayer EuroBertDecoderLayer "
    "UltrabertDecoderLayer",
    "llama:post_norm": "NomicBertLayer GteLayer JinaEmbeddingsV3Layer",
    "llama:sandwich": "Gemma2DecoderLayer Gemma3DecoderLayer",
    "gpt:gpt2": "GPT2Block",
    "gpt:gpt_neox": "GPTNeoXLayer",
    "gpt:phi": "PhiDecoderLayer",
}

LAYERS: dict[str, str | Family] = {name: place for place, names in _TABLE.items() for name in names.split()}

# Layers that would be asked for, and why they cannot be pruned.
REFUSED = {
    "BeitLayer": "its attention keeps a table of positions for each head",
    "Data2VecVisionLayer": "its attention keeps a table of positions for each head",
    "LayoutLMv3Layer": "its attention is handed two tables of positions for each head",
    "WavLMEncoderLayer": "its attention gates positions for each head by what it reads",
    "WavLMEncoderLayerStableLayerNorm": "its attention gates positions for each head by what it reads",
    "ConvBertLayer": "its attention holds a convolution",
    "SwinLayer": "its windows and widths change from stage to stage",
    "Swinv2Layer": "its windows and widths change from stage to stage",
    "DebertaLayer": "its fused projection interleaves heads; DeBERTa v2 and v3 are supported",
    "MLCDEncoderLayer": "its attention swaps samples and positions before its output projection",
    "EsmcLayer": "its attention norms queries and keys over all heads together",
    "LukeLayer": "its attention has queries of its own for entities",
    "LiltLayer": "it runs text and layout side by side",
    "XmodLayer": "it holds an adapter for each language",
    "MobileBertLayer": "it is a bottleneck with several feed-forward networks",
    "FunnelLayer": "its attention keeps biases for each head",
    "XLNetLayer": "its attention keeps biases for each head",
    "NystromformerLayer": "its attention holds a convolution",
    "Wav2Vec2ConformerEncoderLayer": "it holds a convolution and two feed-forward networks",
    "LongformerLayer": "its attention has projections of its own for global tokens",
    "BigBirdLayer": "its attention is sparse in blocks of fixed heads",
    "MixtralDecoderLayer": "it is a mixture of experts",
    "Qwen2MoeDecoderLayer": "it is a mixture of experts",
    "Qwen3MoeDecoderLayer": "it is a mixture of experts",
}

# Models whose first position is one after that of the padding token: they take two tokens less than they have.
POSITIONS_AFTER_PADDING = {
    "camembert", "data2vec-text", "markuplm", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl",
}  # fmt: skip


def register_family(layer_class: str, family: Family) -> None:
    """Teaches trimformer a layer of your own.

    Args:
        layer_class: name of the layer's class.
        family: layer -> its sublayers, in the order in which they run; see `trimformer.models.sublayer`.
    """
    LAYERS[layer_class] = family


@cache
def _load_entry_points() -> None:
    for point in entry_points(group="trimformer.families"):
        LAYERS.setdefault(point.name, point.load())


def find_family(layer_class: str) -> Family | None:
    """The family of a layer class, None where it is no layer that is known.

    Raises:
        TrimformerError: it is one that cannot be pruned.
    """
    _load_entry_points()
    if layer_class in REFUSED and layer_class not in LAYERS:
        raise TrimformerError(f"layers of class {layer_class} cannot be pruned: {REFUSED[layer_class]}")
    place = LAYERS.get(layer_class)
    if isinstance(place, str):
        file, function = place.split(":")
        family: Family = getattr(importlib.import_module(f"{__name__}.{file}"), function)
        LAYERS[layer_class] = place = family
    return place


def supported_layers() -> list[str]:
    """Names of the layer classes that can be pruned."""
    _load_entry_points()
    return sorted(LAYERS)
