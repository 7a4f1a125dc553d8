"""Model families: for each layer class, the function that describes its sublayers.

Layers are found by class name, in any model and under any path. A family is a function from a layer to its sublayers in
execution order. Other packages add families with `register_family`, or with an entry point of the group
`trimformer.families` that is named after the layer class.
"""

import importlib
import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from trimformer.errors import TrimformerError
from trimformer.models.sublayer import Sublayer
from trimformer.options.checks import shorten

Family = Callable[[Any], Iterable[Sublayer]]

# "module:function" in this package -> names of layer classes
_TABLE = {
    "bert:sublayers": "BertLayer RobertaLayer XLMRobertaLayer CamembertLayer ElectraLayer ErnieLayer RemBertLayer "
    "LayoutLMLayer SplinterLayer Data2VecTextLayer RoFormerLayer MarkupLMLayer RoCBertLayer BertGenerationLayer "
    "TapasLayer AltRobertaLayer ChineseCLIPTextLayer",
    "bert:bros": "BrosLayer",
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
    "llama:sublayers": "LlamaDecoderLayer MistralDecoderLayer MinistralDecoderLayer Ministral3DecoderLayer "
    "Qwen2DecoderLayer Qwen3DecoderLayer GemmaDecoderLayer SmolLM3DecoderLayer GraniteDecoderLayer OlmoDecoderLayer "
    "GlmDecoderLayer Starcoder2DecoderLayer NemotronDecoderLayer SeedOssDecoderLayer Ernie4_5DecoderLayer "
    "HeliumDecoderLayer ArceeDecoderLayer CwmDecoderLayer HunYuanDenseV1DecoderLayer EuroBertDecoderLayer "
    "UltrabertDecoderLayer",
    "llama:apertus": "ApertusDecoderLayer",
    "llama:post_norm": "NomicBertLayer GteLayer JinaEmbeddingsV3Layer",
    "llama:branch_norm": "Olmo2DecoderLayer Olmo3DecoderLayer Exaone4DecoderLayer",
    "llama:sandwich": "Gemma2DecoderLayer Gemma3DecoderLayer",
    "llama:glm4": "Glm4DecoderLayer",
    "llama:parallel": "PhiDecoderLayer CohereDecoderLayer Cohere2DecoderLayer GPTJBlock",
    "llama:stablelm": "StableLmDecoderLayer",
    "phi3:sublayers": "Phi3DecoderLayer",
    "gpt:gpt2": "GPT2Block",
    "gpt:gpt_neox": "GPTNeoXLayer",
    "gpt:opt": "OPTDecoderLayer",
    "gpt:falcon": "FalconDecoderLayer",
}

LAYERS: dict[str, str | Family] = {name: place for place, names in _TABLE.items() for name in names.split()}

# Layer classes that cannot be pruned, and why.
REFUSED = {
    "BeitLayer": "its attention has a table of positions for each head",
    "Data2VecVisionLayer": "its attention has a table of positions for each head",
    "LayoutLMv3Layer": "its attention receives two tables of positions for each head",
    "WavLMEncoderLayer": "its attention gates position scores for each head by its input",
    "WavLMEncoderLayerStableLayerNorm": "its attention gates position scores for each head by its input",
    "BloomBlock": "its attention receives a position bias for each head",
    "MptBlock": "its attention receives a position bias for each head",
    "ConvBertLayer": "its attention contains a convolution",
    "SwinLayer": "its windows and widths differ between stages",
    "Swinv2Layer": "its windows and widths differ between stages",
    "DebertaLayer": "its fused projection interleaves heads; DeBERTa v2 and v3 are supported",
    "MLCDEncoderLayer": "its attention transposes samples and positions before its output projection",
    "EsmcLayer": "its attention normalizes queries and keys over all heads together",
    "LukeLayer": "its attention has separate queries for entities",
    "LiltLayer": "it runs text and layout in parallel",
    "XmodLayer": "it contains an adapter for each language",
    "MobileBertLayer": "it has a bottleneck and several feed-forward networks",
    "FunnelLayer": "its attention has biases for each head",
    "XLNetLayer": "its attention has biases for each head",
    "NystromformerLayer": "its attention contains a convolution",
    "Wav2Vec2ConformerEncoderLayer": "it contains a convolution and two feed-forward networks",
    "LongformerLayer": "its attention has separate projections for global tokens",
    "BigBirdLayer": "its attention uses sparse blocks with a fixed number of heads",
    "MixtralDecoderLayer": "it is a mixture of experts",
    "Qwen2MoeDecoderLayer": "it is a mixture of experts",
    "Qwen3MoeDecoderLayer": "it is a mixture of experts",
}

# Parts of a layer that cannot be pruned, by a pattern for their class names, and why; for layers of any other class.
REFUSED_PARTS = {
    r"Mamba|Rwkv|xLSTM|Mixer$|DeltaNet|DeltaAttention|LinearAttention|LightningAttention|RecurrentBlock|ShortConv": (
        "it has a recurrence or convolution ({part}) in place of attention"
    ),
    r"Moe|MoE|Experts|Router": "it is a mixture of experts",
}

# Model types that number positions from the padding index + 1, so that the first positions are no token's.
POSITIONS_AFTER_PADDING = {
    "altclip_text_model", "camembert", "data2vec-text", "esm", "markuplm", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl",
}  # fmt: skip


def register_family(layer_class: str, family: Family) -> None:
    """Adds a layer class to the families that can be pruned.

    Args:
        layer_class: name of the layer class.
        family: function from a layer to its sublayers in execution order; see `trimformer.models.sublayer`.

    Raises:
        TrimformerError: the class is not given by its name, or the family is not a function.
    """
    if not isinstance(layer_class, str) or not layer_class:
        raise TrimformerError(f"layer_class is {shorten(layer_class)}; give the name of the layer's class")
    if not callable(family):
        raise TrimformerError(
            f"the family of '{layer_class}' is {shorten(family)}; give a function from a layer to its sublayers"
        )
    LAYERS[layer_class] = family


@cache
def _load_entry_points() -> None:
    for point in entry_points(group="trimformer.families"):
        LAYERS.setdefault(point.name, point.load())


def find_family(layer_class: str) -> Family | None:
    """Returns the family of a layer class; None if the class is unknown.

    Raises:
        TrimformerError: the layer class cannot be pruned.
    """
    _load_entry_points()
    if layer_class in REFUSED and layer_class not in LAYERS:
        raise TrimformerError(f"layers of class {layer_class} cannot be pruned: {REFUSED[layer_class]}")
    place = LAYERS.get(layer_class)
    if isinstance(place, str):
        module, function = place.split(":")
        family: Family = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        LAYERS[layer_class] = place = family
    return place


def reason_to_refuse(layer: nn.Module) -> str | None:
    """Returns why a layer of an unknown class cannot be pruned; None if none of its parts says so."""
    names = [type(module).__name__ for module in layer.modules()]
    for pattern, reason in REFUSED_PARTS.items():
        part = next((name for name in names if re.search(pattern, name)), None)
        if part is not None:
            return reason.format(part=part)
    return None


def supported_layers() -> list[str]:
    """Returns the names of the layer classes that can be pruned, sorted."""
    _load_entry_points()
    return sorted(LAYERS)
