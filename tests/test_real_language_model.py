"""A real chat model is pruned better by curves than by FLAP, and the saved directory generates the same text."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import trimformer
from trimformer.checkpoints.shrink import shrink
from trimformer.data.tasks import LanguageTask
from trimformer.export.gguf.export import export_gguf
from trimformer.export.gguf.verify import compare
from trimformer.models import find_sublayers

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

pytest.importorskip("gguf")
pytestmark = pytest.mark.slow


def documents():
    """Documents of a few movie-review sentences each."""
    from assets import movie_reviews

    lines = (movie_reviews() / "train.jsonl").read_text(encoding="utf-8").splitlines()[:1200]
    sentences = [json.loads(line)["sentence"] for line in lines]
    return [" ".join(sentences[i : i + 8]) for i in range(0, len(sentences), 8)]


def test_a_real_chat_model_keeps_more_than_with_flap_and_generates(tmp_path):
    from assets import smollm2

    model, tokenizer = trimformer.load(smollm2())
    options = {"num_samples": 10, "task": LanguageTask(name="language", max_length=96)}
    texts = documents()
    results = {
        method: trimformer.prune(
            model, tokenizer, texts[:60], 0.8, eval_dataset=texts[100:102], method=method, **options
        )
        for method in ("obs", "flap")
    }
    obs, flap = (results[name].scores for name in ("obs", "flap"))
    assert results["obs"].budget.kept <= 0.8
    assert obs.divergence < 0.8 * flap.divergence
    assert obs.pruned["perplexity"] < flap.pruned["perplexity"]
    pruned = results["obs"].model
    trimformer.save(pruned, tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name a film."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answers = [m.generate(**inputs, max_new_tokens=16, do_sample=False) for m in (pruned, loaded)]
    assert torch.equal(*answers)
    with torch.no_grad():  # the cache gives what one forward pass over all tokens gives
        logits = pruned(answers[0]).logits[0]
    start = inputs["input_ids"].shape[1]
    assert logits[start - 1 : -1].argmax(-1).tolist() == answers[0][0, start:].tolist()


def test_a_real_chat_model_writes_the_same_text_in_llama_cpp(tmp_path):
    pytest.importorskip("xllamacpp")
    from assets import smollm2

    model, tokenizer = trimformer.load(smollm2())
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.rand(s.num_units, generator=generator) > 0.1).float() for s in find_sublayers(model)]
    masks[2 * 3].zero_()  # layer 3 has no attention, layer 7 no neurons, layer 11 nothing
    masks[2 * 7 + 1].zero_()
    masks[2 * 11].zero_()
    masks[2 * 11 + 1].zero_()
    shrink(model, masks)
    (file,) = export_gguf(model, tokenizer, tmp_path, ["f32"], verified=False).files
    result = compare(file.path, model, tokenizer, texts=documents()[:8], tokens=64)
    assert result.tokens > 8 * 32  # texts may end
    assert result.equal == result.tokens
    assert result.divergence < 1e-5
