"""Outputs and divergences of every head and modality do not depend on the batch size."""

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import make_model, make_tokenizer
from trimformer.data.batches import make_batches
from trimformer.data.outputs import find_problem, predict
from trimformer.evaluation.model_outputs import unbatch
from trimformer.evaluation.scores import divergences

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
SPEECH = {
    **SMALL, "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "vocab_size": 9, "mask_time_prob": 0.0,
    "tdnn_dim": (8, 8), "tdnn_kernel": (3, 1), "tdnn_dilation": (1, 1), "xvector_output_dim": 6, "num_labels": 3,
    "classifier_proj_size": 8,
}  # fmt: skip
COUNT = 9


def texts(head, seed):
    model = make_model("Bert", head, num_labels=3 if head != "ForQuestionAnswering" else 2, seed=seed)
    draw = np.random.default_rng(0)
    features = []
    for _ in range(COUNT):
        choices = [draw.integers(3, 60, int(draw.integers(3, 12))).tolist() for _ in range(2)]
        features.append({"input_ids": choices if head == "ForMultipleChoice" else choices[0]})
    return model, make_tokenizer(), features


def images(head, seed):
    torch.manual_seed(seed)
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=4, num_labels=3)  # type: ignore[call-arg]
    draw = np.random.default_rng(0)
    features = [{"pixel_values": draw.normal(size=(3, 16, 16)).astype(np.float32)} for _ in range(COUNT)]
    return getattr(transformers, f"ViT{head}")(config), transformers.ViTImageProcessorPil(), features


def sounds(head, seed, masked=True):
    torch.manual_seed(seed)
    layer_norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if masked else {}
    model = getattr(transformers, f"Wav2Vec2{head}")(transformers.Wav2Vec2Config(**SPEECH, **layer_norm))
    draw = np.random.default_rng(0)
    features = []
    for length in draw.integers(300, 900, COUNT).tolist():
        wave = draw.normal(size=length).astype(np.float32)
        features.append({"input_values": wave, **({"attention_mask": np.ones(length, int)} if masked else {})})
    return model, transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked), features


CASES = {
    **{f"text {head}": (texts, head) for head in (
        "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM",
        "ForMultipleChoice", "ForNextSentencePrediction", "Model",
    )},
    **{f"image {head}": (images, head) for head in ("ForImageClassification", "Model")},
    **{f"sound {head}": (sounds, head) for head in (
        "ForCTC", "ForAudioFrameClassification", "ForSequenceClassification", "ForXVector", "Model",
    )},
    **{f"sound without mask {head}": (lambda *a: sounds(*a, masked=False), head) for head in (
        "ForCTC", "ForSequenceClassification",
    )},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_divergences_do_not_depend_on_the_batch_size(case):
    make, head = CASES[case]
    (dense, processor, features), (pruned, *_) = (make(head, seed) for seed in (0, 1))
    problem, values, samples = find_problem(dense), [], []
    with torch.no_grad():  # fresh models predict nearly the same for every input
        for parameter in (p for model in (dense, pruned) for p in model.parameters() if p.dim() == 2):
            parameter.mul_(3)
    for size in (1, COUNT):
        batches = make_batches(features, processor, size)
        outputs, references = (predict(model.eval(), batches) for model in (pruned, dense))
        values.append(divergences(outputs, references, batches, problem))
        samples.append(unbatch(outputs, batches))
    assert len(values[0]) == COUNT
    assert values[0].abs().max() > 0
    torch.testing.assert_close(values[1], values[0], rtol=1e-3, atol=1e-6)
    for alone, together in zip(*samples, strict=True):
        if alone.shape == together.shape:  # per-token outputs keep their padding
            torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
