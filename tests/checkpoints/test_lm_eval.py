"""EleutherAI's harness scores a pruned language model by a task of a local file."""

import json

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import trimformer
from testing.language import byte_tokenizer, language_model
from tests.test_language_models import OPTIONS, documents

TASK = """
task: local
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {file}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""

CHOICES = [" the mat", " a dog sat"]


@pytest.mark.slow
def test_the_harness_scores_a_saved_model_as_its_logits_do(tmp_path):
    tokenizer = byte_tokenizer()
    pruned = trimformer.prune(language_model(), tokenizer, documents(), 0.6, **OPTIONS).model
    trimformer.save(pruned, tokenizer, tmp_path / "pruned")
    model, tokenizer = trimformer.load(tmp_path / "pruned")
    texts = ["the cat sat on", "a dog", "on the mat", "cat and dog"]
    likely = [
        max(range(2), key=lambda k, text=text: log_likelihood(model, tokenizer, text, CHOICES[k])) for text in texts
    ]
    rows = [
        {"text": text, "choices": CHOICES, "answer": k}
        for text, k in zip(texts, [*likely[:3], 1 - likely[3]], strict=True)
    ]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "local.yaml").write_text(TASK.format(file=tmp_path / "rows.json"))
    result = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer),
        tasks=["local"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    assert result["results"]["local"]["acc,none"] == 0.75


def log_likelihood(model, tokenizer, text, choice):
    """Returns log p(choice | text)."""
    prompt, ids = (tokenizer(words, return_tensors="pt")["input_ids"] for words in (text, text + choice))
    with torch.no_grad():
        log_probs = model(ids).logits[0, :-1].log_softmax(-1)
    return float(log_probs.gather(1, ids[0, 1:, None])[prompt.shape[1] - 1 :].sum())
