"""Every kind of input, from raw rows to a pruned directory that loads again."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import LatencyOptions, TrimformerError, load, prune, save
from trimformer.data.outputs import find_problem

RNG = np.random.default_rng(0)
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
SPEECH = {**SMALL, "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4), "num_feat_extract_layers": 2}
SPEECH |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "vocab_size": 9, "mask_time_prob": 0.0}
TEXTS = [row["sentence"] for row in make_rows(20)]


def picture():
    return Image.fromarray(RNG.integers(0, 255, (20, 24, 3), dtype=np.uint8))


def sound():
    return {"array": RNG.normal(size=900 + int(RNG.integers(300))).astype(np.float32), "sampling_rate": 16_000}


def vit():
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=4, num_labels=3)  # type: ignore[call-arg]
    processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16})
    rows = [{"image": picture(), "label": i % 3} for i in range(20)]
    return transformers.ViTForImageClassification(config), processor, rows


def wav2vec2(head="ForSequenceClassification"):
    config = transformers.Wav2Vec2Config(**SPEECH, num_labels=3)  # type: ignore[call-arg]
    processor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    rows = [{"audio": sound(), "label": i % 3} for i in range(20)]
    if head == "ForCTC":
        rows = [{"audio": row["audio"]} for row in rows]
    return getattr(transformers, f"Wav2Vec2{head}")(config), processor, rows


def choices():
    rows = [
        {"question": a, "choices": [b, c], "label": 0} for a, b, c in zip(TEXTS, TEXTS[1:], TEXTS[2:], strict=False)
    ]
    return make_model(head="ForMultipleChoice"), make_tokenizer(), rows


KINDS = {
    "images": vit,
    "sounds": wav2vec2,
    "sounds, CTC": lambda: wav2vec2("ForCTC"),
    "choices": choices,
    "masked words from plain texts": lambda: (make_model(head="ForMaskedLM"), make_tokenizer(), TEXTS),
    "tags from plain texts": lambda: (make_model(head="ForTokenClassification"), make_tokenizer(), TEXTS),
    "answers from unlabelled pairs": lambda: (
        make_model(head="ForQuestionAnswering"),
        make_tokenizer(),
        [{"question": a, "context": b} for a, b in pairwise(TEXTS)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_a_smaller_directory_out(kind, tmp_path):
    torch.manual_seed(0)
    model, processor, rows = KINDS[kind]()
    with torch.no_grad():  # at its start a model answers everything alike
        for parameter in (p for p in model.parameters() if p.dim() == 2):
            parameter.mul_(4)
    few = LatencyOptions(batch_size=1)
    result = prune(model.eval(), processor, rows, 0.6, device="cpu", neuron_multiple=4, latency=few)
    assert result.sizes["pruned"].macs <= 0.6 * result.sizes["dense"].macs * (1 + 1e-9)
    assert -1e-6 < result.scores.divergence < float("inf")
    save(result.model, processor, tmp_path / "pruned")
    again, _ = load(tmp_path / "pruned")
    assert find_problem(again) == result.task.problem
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))


def test_a_token_id_beyond_the_embedding_is_an_error_before_any_pass():
    with pytest.raises(TrimformerError, match=r"token id .* but the model has only 9 tokens"):
        prune(make_model(vocab_size=9), make_tokenizer(), make_rows(20), 0.5, device="cpu")
