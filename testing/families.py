"""Tiny random models of every supported family and head, for the tests and `benchmarks/families.py`.

The check functions return the largest difference between two outputs, relative to the largest value of the output.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from testing.models import enlarged, pruned
from trimformer.data.outputs import find_problem, model_output, output_mask
from trimformer.export.onnx.export import export_onnx, quantize
from trimformer.export.written_files import Written
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import MaskUnits

LENGTH = 12  # tokens of the longest text
SOUND = 400  # samples of the longest sound

# (samples, tokens, audio samples) of the batches on which an exported file is compared, 100 samples in all. The first
# is traced, and no other has its shape.
SHAPES = ((5, LENGTH, SOUND), (40, 19, 523), (30, 7, 300), (24, 33, 700), (1, 5, 250))

_SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
TEXT = {**_SIZES, **_SPECIAL, "vocab_size": 60, "max_position_embeddings": 64, "num_labels": 3}
NAMED_OTHERWISE = {name: size for name, size in TEXT.items() if name != "intermediate_size"}
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 6}
IMAGE = {**_SIZES, "image_size": 16, "patch_size": 4, "num_labels": 3}
WIDE = {**IMAGE, "hidden_size": 32}  # heads of 8
SPEECH = {
    **_SIZES, **_SPECIAL, "vocab_size": 20, "num_labels": 3, "conv_dim": (8, 8), "conv_stride": (5, 2),
    "conv_kernel": (10, 3), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "tdnn_dim": (8, 8), "tdnn_kernel": (3, 1), "tdnn_dilation": (1, 1),
    "xvector_output_dim": 6, "classifier_proj_size": 8, "num_codevectors_per_group": 4, "codevector_dim": 8,
    "proj_codevector_dim": 8,
}  # fmt: skip
STABLE = {**SPEECH, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
T5_SIZES = {
    **_SPECIAL, "vocab_size": 60, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2,
    "num_heads": 4, "decoder_start_token_id": 0, "num_labels": 3, "initializer_factor": 0.25,
}  # fmt: skip
_WORDS = {**TEXT, "projection_dim": 16}
_PATCHES = {**IMAGE, "projection_dim": 16}
TOWERS = {"text_config": {**_WORDS, "num_hidden_layers": 2}, "vision_config": _PATCHES, "projection_dim": 16,
          "num_labels": 3}  # fmt: skip
PATCHES_2 = {**_SIZES, "patch_size": 4, "num_patches": 16}
GROUPED = {"num_key_value_heads": 2}
MIXED = {"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}

CLASSES, TOKENS, SPAN, MASKED = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM",
)  # fmt: skip
CHOICE, NEXT = "ForMultipleChoice", "ForNextSentencePrediction"
IMAGES, SOUNDS, CTC, FRAMES, XVECTOR = (
    "ForImageClassification", "ForAudioClassification", "ForCTC", "ForAudioFrameClassification", "ForXVector",
)  # fmt: skip
ENCODER = (CLASSES, "Model", TOKENS, SPAN, MASKED, CHOICE)
SPOKEN = (CLASSES, "Model", CTC)


@dataclass(frozen=True)
class Row:
    """A family, or a variant of it.

    Attributes:
        prefix: prefix of the class names.
        heads: suffixes of the class names; the quick tests use the first.
        sizes: config entries shared by similar families.
        more: further config entries.
    """

    prefix: str
    heads: tuple[str, ...]
    sizes: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)


def _row(name: str, heads: tuple[str, ...], sizes: Mapping[str, Any], **more: Any) -> tuple[str, Row]:
    return name, Row(name.split(",")[0], heads, sizes, more)


FAMILIES: dict[str, Row] = dict([
    _row("Bert", (*ENCODER, NEXT), TEXT),
    _row("Roberta", ENCODER, TEXT),
    _row("XLMRoberta", ENCODER, TEXT),
    _row("Camembert", ENCODER, TEXT),
    _row("Electra", ENCODER, TEXT, embedding_size=12),
    _row("Ernie", (*ENCODER, NEXT), TEXT),
    _row("RemBert", ENCODER, TEXT, input_embedding_size=12, output_embedding_size=12),
    _row("LayoutLM", (CLASSES, "Model", TOKENS, SPAN, MASKED), TEXT),
    _row("Splinter", ("Model", SPAN), TEXT, question_token_id=4),
    _row("Data2VecText", ENCODER, TEXT),
    _row("RoFormer", ENCODER, TEXT),
    _row("MarkupLM", (CLASSES, "Model", TOKENS, SPAN), TEXT, max_depth=4, xpath_unit_hidden_size=4),
    _row("RoCBert", ENCODER, TEXT, pronunciation_vocab_size=60, pronunciation_embed_dim=8, shape_vocab_size=60,
         shape_embed_dim=8, concat_input=False),
    _row("BertGeneration", ("Encoder",), TEXT),
    _row("Bros", ("Model", TOKENS), TEXT, hidden_size=64),
    _row("Tapas", (CLASSES, "Model", MASKED), TEXT),
    _row("XLMRobertaXL", ENCODER, TEXT),
    _row("RobertaPreLayerNorm", ENCODER, TEXT),
    _row("MegatronBert", (*ENCODER, NEXT), TEXT),
    _row("Esm", (CLASSES, "Model", TOKENS, MASKED), TEXT, mask_token_id=3),
    _row("Esm, rotary", (CLASSES, "Model"), TEXT, mask_token_id=3, position_embedding_type="rotary"),
    _row("DistilBert", ENCODER, {
        **_SPECIAL, "vocab_size": 60, "max_position_embeddings": 64, "num_labels": 3, "dim": 24, "n_layers": 3,
        "n_heads": 4, "hidden_dim": 40,
    }),
    _row("Albert", ENCODER, TEXT, embedding_size=12),
    _row("Albert, two groups", (CLASSES, "Model"), TEXT, embedding_size=12, num_hidden_layers=4, num_hidden_groups=2),
    _row("MPNet", ENCODER, TEXT),
    _row("DebertaV2", ENCODER, TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True,
         position_buckets=8, norm_rel_ebd="layer_norm", type_vocab_size=0, position_biased_input=False),
    _row("DebertaV2, own positions", (CLASSES,), TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"],
         share_att_key=False, type_vocab_size=0),
    _row("ModernBert", ENCODER, TEXT, global_attn_every_n_layers=2, local_attention=4, cls_token_id=0, sep_token_id=2),
    _row("NomicBert", (CLASSES, "Model", TOKENS, MASKED), TEXT),
    _row("Gte", (CLASSES, "Model", TOKENS, MASKED), TEXT),
    _row("JinaEmbeddingsV3", (CLASSES, "Model", TOKENS, SPAN, MASKED), TEXT),
    _row("EuroBert", (CLASSES, "Model", TOKENS, MASKED), TEXT, **GROUPED),
    _row("Ultrabert", (CLASSES, "Model", TOKENS, SPAN, MASKED), TEXT),
    _row("T5", ("EncoderModel", CLASSES, TOKENS, SPAN), T5_SIZES),
    _row("T5, gated", ("EncoderModel", CLASSES), T5_SIZES, feed_forward_proj="gated-gelu"),
    _row("UMT5", ("EncoderModel", CLASSES, TOKENS, SPAN), T5_SIZES, feed_forward_proj="gated-gelu"),
    _row("MT5", ("EncoderModel", CLASSES, TOKENS, SPAN), T5_SIZES),
    _row("ViT", (IMAGES, "Model"), IMAGE),
    _row("DeiT", (IMAGES, "Model", "ForImageClassificationWithTeacher"), IMAGE),
    _row("ViTMAE", ("Model",), IMAGE, mask_ratio=0.0),
    _row("ViTMSN", (IMAGES, "Model"), IMAGE),
    _row("IJepa", (IMAGES, "Model"), IMAGE),
    _row("Pixio", ("Model",), IMAGE),
    _row("Vivit", ("Model",), IMAGE, num_frames=4, tubelet_size=[2, 4, 4]),
    _row("AST", (SOUNDS, "Model"), {**_SIZES, "num_labels": 3}, max_length=24, num_mel_bins=16, patch_size=8,
         frequency_stride=8, time_stride=8),
    _row("Dinov2", (IMAGES, "Model"), IMAGE, mlp_ratio=2, layerscale_value=0.3),
    _row("Dinov2, gated", (IMAGES,), IMAGE, mlp_ratio=2, layerscale_value=0.3, use_swiglu_ffn=True),
    _row("Dinov2WithRegisters", (IMAGES, "Model"), IMAGE, mlp_ratio=2, layerscale_value=0.3),
    _row("DINOv3ViT", ("Model",), WIDE, layerscale_value=0.3, num_register_tokens=2),
    _row("DINOv3ViT, gated", ("Model",), WIDE, layerscale_value=0.3, num_register_tokens=2, use_gated_mlp=True),
    _row("CLIP", ("Model", IMAGES), TOWERS),
    _row("CLIPText", ("ModelWithProjection", "Model"), _WORDS),
    _row("CLIPVision", ("ModelWithProjection", "Model"), _PATCHES),
    _row("Siglip", ("Model", IMAGES), TOWERS),
    _row("SiglipText", ("Model",), _WORDS),
    _row("SiglipVision", ("Model",), _PATCHES),
    _row("Siglip2", ("Model", IMAGES), {**TOWERS, "vision_config": PATCHES_2}),
    _row("Siglip2Text", ("Model",), _WORDS),
    _row("Siglip2Vision", ("Model",), PATCHES_2),
    _row("MetaClip2", ("Model", IMAGES), TOWERS),
    _row("MetaClip2Text", ("ModelWithProjection", "Model"), _WORDS),
    _row("MetaClip2Vision", ("ModelWithProjection", "Model"), _PATCHES),
    _row("AltCLIP", ("Model",), TOWERS, text_config={**_WORDS, "project_dim": 16}),
    _row("ChineseCLIP", ("Model",), TOWERS),
    _row("Whisper", (SOUNDS,), {
        **_SPECIAL, "vocab_size": 60, "d_model": 24, "encoder_layers": 3, "decoder_layers": 1,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
        "num_mel_bins": 8, "max_source_positions": 12, "decoder_start_token_id": 0, "num_labels": 3,
    }),
    _row("Wav2Vec2", (*SPOKEN, FRAMES, XVECTOR), SPEECH),
    _row("Wav2Vec2, stable", (*SPOKEN, FRAMES, XVECTOR), STABLE),
    _row("Hubert", SPOKEN, SPEECH),
    _row("Hubert, stable", SPOKEN, STABLE),
    _row("UniSpeech", SPOKEN, SPEECH),
    _row("UniSpeech, stable", SPOKEN, STABLE),
    _row("UniSpeechSat", (*SPOKEN, FRAMES, XVECTOR), SPEECH),
    _row("UniSpeechSat, stable", (*SPOKEN, FRAMES, XVECTOR), STABLE),
    _row("SEW", SPOKEN, SPEECH),
    _row("Data2VecAudio", (*SPOKEN, FRAMES, XVECTOR), SPEECH, num_conv_pos_embeddings=2, conv_pos_kernel_size=3),
    _row("Llama", (CLASSES, "Model", TOKENS, SPAN), DECODER),
    _row("Mistral", (CLASSES, "Model", TOKENS, SPAN), DECODER, sliding_window=4),
    _row("Ministral", (CLASSES, "Model", TOKENS, SPAN), DECODER, **MIXED),
    _row("Ministral3", (CLASSES, "Model", TOKENS, SPAN), DECODER),
    _row("Qwen2", (CLASSES, "Model", TOKENS, SPAN), TEXT, **GROUPED),
    _row("Qwen3", (CLASSES, "Model", TOKENS, SPAN), DECODER),
    _row("Gemma", (CLASSES, "Model", TOKENS), DECODER),
    _row("Gemma2", (CLASSES, "Model", TOKENS), DECODER, query_pre_attn_scalar=6, sliding_window=4),
    _row("Gemma3Text", (CLASSES, "Model"), DECODER, query_pre_attn_scalar=6, sliding_window=4),
    _row("SmolLM3", (CLASSES, "Model", TOKENS, SPAN), DECODER, no_rope_layers=[1, 0, 1]),
    _row("Granite", ("Model",), DECODER, residual_multiplier=0.5, attention_multiplier=0.3, embedding_multiplier=3.0,
         logits_scaling=2.0),
    _row("Olmo", ("Model",), DECODER, clip_qkv=2.0),
    _row("Olmo2", ("Model",), DECODER),
    _row("Olmo3", ("Model",), DECODER, sliding_window=4),
    _row("Exaone4", (CLASSES, "Model", TOKENS, SPAN), DECODER, **MIXED),
    _row("Glm", (CLASSES, "Model", TOKENS), DECODER, head_dim=8),
    _row("Glm4", (CLASSES, "Model", TOKENS), DECODER, head_dim=8),
    _row("Starcoder2", (CLASSES, "Model", TOKENS), DECODER),
    _row("Nemotron", (CLASSES, "Model", TOKENS, SPAN), DECODER),
    _row("SeedOss", (CLASSES, "Model", TOKENS, SPAN), DECODER),
    _row("Ernie4_5", ("Model",), DECODER),
    _row("Helium", (CLASSES, "Model", TOKENS), DECODER),
    _row("Arcee", (CLASSES, "Model", TOKENS, SPAN), DECODER),
    _row("Cwm", ("Model",), DECODER, **MIXED),
    _row("HunYuanDenseV1", (CLASSES, "Model"), DECODER),
    _row("Apertus", ("Model", TOKENS), DECODER),
    _row("StableLm", (CLASSES, "Model", TOKENS), {**TEXT, "hidden_size": 32}, **GROUPED),
    _row("StableLm, parallel", (CLASSES,), {**TEXT, "hidden_size": 32}, **GROUPED, use_parallel_residual=True,
         qk_layernorm=True),
    _row("Cohere", ("Model",), DECODER),
    _row("Cohere, norms of heads", ("Model",), DECODER, use_qk_norm=True),
    _row("Cohere2", ("Model",), DECODER, **MIXED),
    _row("Phi", (CLASSES, "Model", TOKENS), {**TEXT, "hidden_size": 32}, **GROUPED),
    _row("Phi3", (CLASSES, "Model", TOKENS), TEXT, **GROUPED),
    _row("GPT2", (CLASSES, "Model", TOKENS, SPAN), {
        **_SPECIAL, "vocab_size": 60, "n_positions": 64, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 40,
        "num_labels": 3,
    }),
    _row("GPTJ", (CLASSES, "Model", SPAN), {
        **_SPECIAL, "vocab_size": 60, "n_positions": 64, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 40,
        "rotary_dim": 4, "num_labels": 3,
    }),
    _row("GPTNeoX", (CLASSES, "Model", TOKENS, SPAN), TEXT, rotary_pct=0.5),
    _row("GPTNeoX, serial", (CLASSES,), TEXT, rotary_pct=0.5, use_parallel_residual=False),
    _row("OPT", (CLASSES, SPAN), NAMED_OTHERWISE, ffn_dim=40, word_embed_proj_dim=24),
    _row("OPT, post-norm", (CLASSES,), NAMED_OTHERWISE, ffn_dim=40, word_embed_proj_dim=24, do_layer_norm_before=False),
    _row("Falcon", (CLASSES, "Model", TOKENS, SPAN), NAMED_OTHERWISE, new_decoder_architecture=True, num_kv_heads=2,
         ffn_hidden_size=40),
    _row("Falcon, one key", (CLASSES,), NAMED_OTHERWISE, multi_query=True, ffn_hidden_size=40),
    _row("Falcon, serial", (CLASSES,), NAMED_OTHERWISE, multi_query=False, parallel_attn=False, bias=True,
         ffn_hidden_size=40),
])  # fmt: skip

# The families that generate text, with their class for it.
GENERATORS = {
    name: {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(
        name, f"{FAMILIES[name].prefix}ForCausalLM"
    )
    for name in [*FAMILIES][[*FAMILIES].index("Llama") :]
}

# Every head of every family, and one head of each.
GRID = [(name, head) for name, row in FAMILIES.items() for head in row.heads]
ONE_EACH = [(name, row.heads[0]) for name, row in FAMILIES.items()]


# Layer classes that are refused, with the class prefix and config of a model that has them.
REFUSED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "BeitLayer": ("Beit", IMAGE),
    "Data2VecVisionLayer": ("Data2VecVision", IMAGE),
    "LayoutLMv3Layer": ("LayoutLMv3", {**TEXT, "coordinate_size": 4, "shape_size": 4, "input_size": 16}),
    "WavLMEncoderLayer": ("WavLM", SPEECH),
    "WavLMEncoderLayerStableLayerNorm": ("WavLM", STABLE),
    "BloomBlock": ("Bloom", {**TEXT, "n_head": 4}),
    "MptBlock": ("Mpt", {"d_model": 24, "n_heads": 4, "n_layers": 2, "vocab_size": 60}),
    "ConvBertLayer": ("ConvBert", TEXT),
    "SwinLayer": ("Swin", {"image_size": 8, "patch_size": 2, "embed_dim": 4, "depths": [1], "num_heads": [2]}),
    "Swinv2Layer": ("Swinv2", {"image_size": 8, "patch_size": 2, "embed_dim": 4, "depths": [1], "num_heads": [2]}),
    "DebertaLayer": ("Deberta", TEXT),
    "MLCDEncoderLayer": ("MLCDVision", WIDE),
    "EsmcLayer": ("Esmc", TEXT),
    "LukeLayer": ("Luke", {**TEXT, "entity_vocab_size": 8, "entity_emb_size": 8}),
    "LiltLayer": ("Lilt", {**TEXT, "channel_shrink_ratio": 2, "max_2d_position_embeddings": 64}),
    "XmodLayer": ("Xmod", TEXT),
    "MobileBertLayer": ("MobileBert", {**TEXT, "embedding_size": 24, "intra_bottleneck_size": 24}),
    "FunnelLayer": ("Funnel", {"vocab_size": 60, "d_model": 24, "n_head": 4, "d_head": 6, "d_inner": 40}),
    "XLNetLayer": ("XLNet", {"vocab_size": 60, "d_model": 24, "n_head": 4, "n_layer": 2, "d_inner": 40}),
    "NystromformerLayer": ("Nystromformer", TEXT),
    "Wav2Vec2ConformerEncoderLayer": ("Wav2Vec2Conformer", SPEECH),
    "LongformerLayer": ("Longformer", {**TEXT, "attention_window": 4}),
    "BigBirdLayer": ("BigBird", TEXT),
    "MixtralDecoderLayer": ("Mixtral", DECODER),
    "Qwen2MoeDecoderLayer": ("Qwen2Moe", {**TEXT, "num_key_value_heads": 2}),
    "Qwen3MoeDecoderLayer": ("Qwen3Moe", DECODER),
}


def make_refused(layer: str) -> PreTrainedModel:
    """Creates a model with such layers on the meta device."""
    prefix, sizes = REFUSED[layer]
    with torch.device("meta"):
        return getattr(transformers, f"{prefix}Model")(getattr(transformers, f"{prefix}Config")(**sizes))


def exists(family: str, head: str) -> bool:
    """Returns whether this version of Transformers has the class; old versions lack the newest families."""
    return hasattr(transformers, FAMILIES[family].prefix + head)


def make(family: str, head: str, attention: str | None = None) -> PreTrainedModel:
    """Creates a tiny random model whose units all matter: 3 layers, hidden size 24, 4 heads of 6, 40 neurons.

    Args:
        family: a key of `FAMILIES`.
        head: suffix of the class name, or the name of the class that generates text.
        attention: implementation of the attention.
    """
    torch.manual_seed(0)
    row = FAMILIES[family]
    sizes = copy.deepcopy({**row.sizes, **row.more})
    if head == SPAN:
        sizes["num_labels"] = 2  # start and end
    config = getattr(transformers, f"{row.prefix}Config")(**sizes)
    chosen = {} if attention is None else {"attn_implementation": attention}
    name = head if head == GENERATORS.get(family) else row.prefix + head
    return enlarged(getattr(transformers, name)._from_config(config, **chosen).eval())


def inputs(
    model: PreTrainedModel, batch: int = 5, length: int = LENGTH, sound: int = SOUND, *, seed: int = 0
) -> dict[str, Tensor]:
    """Creates a batch for a model: texts and sounds of different lengths, padded on the right, or random images."""
    generator = torch.Generator().manual_seed(seed)
    config, name = model.config, model.main_input_name
    vision = getattr(config, "vision_config", config)
    made = {}
    has_towers = name == "input_ids" and hasattr(config, "vision_config")
    if name == "input_ids":
        made |= _texts(model, batch, length, generator)
    if (name == "pixel_values" or has_towers) and hasattr(vision, "num_patches"):  # SigLIP 2 accepts patches
        shape = (batch, vision.num_patches, vision.num_channels * vision.patch_size**2)
        side = torch.tensor(int(vision.num_patches**0.5))
        made |= {
            "pixel_values": torch.randn(shape, generator=generator),
            "pixel_attention_mask": torch.ones(shape[:2], dtype=torch.long),
            "spatial_shapes": side.expand(batch, 2),
        }
    elif name == "pixel_values" or has_towers:
        frames = [config.num_frames] if hasattr(config, "num_frames") else []
        made["pixel_values"] = torch.randn(batch, *frames, 3, 16, 16, generator=generator)
        if hasattr(config, "mask_ratio"):  # ViT-MAE shuffles the patches by it
            made["noise"] = torch.rand(batch, 16, generator=generator)
    if name == "input_features":
        made[name] = torch.randn(batch, config.num_mel_bins, 2 * config.max_source_positions, generator=generator)
    if name == "input_values" and hasattr(config, "num_mel_bins"):
        made[name] = torch.randn(batch, config.max_length, config.num_mel_bins, generator=generator)
    elif name == "input_values":
        mask = _mask(batch, sound, 150, generator)
        made[name] = torch.randn(batch, sound, generator=generator) * mask
        if getattr(config, "feat_extract_norm", "layer") == "layer":  # other feature extractors return no mask
            made["attention_mask"] = mask
    return {**made, "index": torch.arange(batch)}


def _mask(batch: int, length: int, shortest: int, generator: torch.Generator) -> Tensor:
    lengths = torch.randint(shortest, length + 1, (batch,), generator=generator)
    lengths[0] = length
    return (torch.arange(length) < lengths.unsqueeze(1)).long()


def _texts(model: PreTrainedModel, batch: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    choices = 2 if type(model).__name__.endswith(CHOICE) else 1
    mask = _mask(batch * choices, length, 3, generator)
    ids = torch.randint(3, 60, mask.shape, generator=generator) * mask + (1 - mask)
    ids[torch.arange(len(ids)), mask.sum(1) - 1] = 2  # the end token, which some heads use
    made = {"input_ids": ids, "attention_mask": mask}
    if type(model).__name__.startswith("Bros"):
        made["bbox"] = torch.rand(*ids.shape, 4, generator=generator)
    if type(model).__name__.startswith("LayoutLM"):
        made["bbox"] = torch.randint(0, 1000, (*ids.shape, 2, 2), generator=generator).sort(-2).values.flatten(-2)
    return {k: v.view(batch, 2, *v.shape[1:]) if choices > 1 else v for k, v in made.items()}


def random_masks(model: PreTrainedModel, seed: int = 0, share: float = 0.6) -> list[Tensor]:
    """Draws masks of zeros and ones that keep and remove at least one unit of each sublayer."""
    generator = torch.Generator().manual_seed(seed)
    masks = [(torch.rand(s.num_units, generator=generator) < share).float() for s in find_sublayers(model)]
    for mask in masks:
        mask[0], mask[-1] = 1, 0
    return masks


def output(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Returns the model's output with zeros at padding, where Splinter's logits are the lowest float."""
    problem = find_problem(model)
    with torch.no_grad():
        made = model_output(model, batch, problem)
    return made * output_mask(made, batch).unsqueeze(-1) if problem in ("tokens", "span") else made


def difference(a: Tensor, b: Tensor) -> float:
    """Returns the largest difference, relative to the largest value of `b`."""
    assert a.shape == b.shape
    assert b.isfinite().all()
    return float((a - b).abs().max() / b.abs().max())


def _masked_and_shrunk(model: PreTrainedModel, masks: list[Tensor]) -> float:
    batch = inputs(model)
    with MaskUnits(find_sublayers(model), masks):
        expected = output(model, batch)
    assert difference(expected, output(model, batch)) > 1e-4  # the masks change the output
    return difference(output(pruned(model, masks), batch), expected)


def masked_is_shrunk(model: PreTrainedModel) -> float:
    """Compares the masked model with the model whose masked units are removed."""
    return _masked_and_shrunk(model, random_masks(model))


def one_head_left(model: PreTrainedModel) -> float:
    """Does the same with only the second head and the second neuron of each sublayer."""
    masks = [torch.zeros(s.num_units) for s in find_sublayers(model)]
    for mask in masks:
        mask[min(1, len(mask) - 1)] = 1
    return _masked_and_shrunk(model, masks)


def no_unit_left(model: PreTrainedModel) -> float:
    """Does the same without any unit."""
    return _masked_and_shrunk(model, [torch.zeros(s.num_units) for s in find_sublayers(model)])


def pruned_again(model: PreTrainedModel) -> float:
    """Compares pruning in two steps with pruning in one."""
    first = random_masks(model)
    again = [torch.ones(int(mask.sum())) for mask in first]
    for mask in again:
        mask[-1:] = 0
    both = [mask.clone() for mask in first]
    for mask, more in zip(both, again, strict=True):
        mask[mask != 0] = more
    twice = pruned(pruned(model, first), again)
    once, batch = pruned(model, both), inputs(model)
    assert once.config.quantization_config == twice.config.quantization_config
    return difference(output(twice, batch), output(once, batch))


def saved_is_reloaded(model: PreTrainedModel) -> float:
    """Compares a pruned model with its reloaded directory."""
    student, batch = pruned(model, random_masks(model)), inputs(model)
    with tempfile.TemporaryDirectory() as directory:
        student.save_pretrained(directory)
        # Copied, as memory alignment of a file's weights may change the last bit.
        loaded = copy.deepcopy(type(model).from_pretrained(directory).eval())
    assert [s.num_units for s in find_sublayers(loaded)] == [s.num_units for s in find_sublayers(student)]
    return difference(output(loaded, batch), output(student, batch))


def exported(model: PreTrainedModel, folder: Path) -> tuple[Written, Written]:
    """Exports the pruned model in float32 and eight bits, both compared with PyTorch on a hundred samples."""
    student = pruned(model, random_masks(model))
    batches = [inputs(student, *shape, seed=i) for i, shape in enumerate(SHAPES)]
    written = export_onnx(student, folder / "model.onnx", batches)
    return written, quantize(written.path, folder / "model_quantized.onnx", student, batches)


# The columns of the table in docs/families.md.
CHECKS: dict[str, Callable[[PreTrainedModel], float]] = {
    "masked == shrunk": masked_is_shrunk,
    "saved == reloaded": saved_is_reloaded,
    "pruned again": pruned_again,
    "one head": one_head_left,
    "no unit left": no_unit_left,
}
