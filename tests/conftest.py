"""Fixtures: tiny random models of every supported family and head, and a tokenizer that needs no download."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from markupsafe import Markup
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from testing.models import enlarged as enlarged
from testing.models import pruned as pruned
from trimformer.costs.lookup_tables import LatencyTable, describe_setting, widest
from trimformer.models import find_sublayers

# Jobs in the background of a script ignore Ctrl-C, and so would every command that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As in every command: else what a test captures depends on whether a command ran before it in the same process.
transformers.utils.logging.disable_progress_bar()

FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "Electra")
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model")

WORDS = """
    the film is a good bad fine dull great story and plot with new old actors who love hate it
    we saw what where when how many much not very so but an of in on at to
""".split()


def make_model(family: str = "Bert", head: str = "ForSequenceClassification", **overrides: Any) -> PreTrainedModel:
    """A tiny random model: 3 layers, hidden size 24, 4 heads of 6, 40 neurons."""
    torch.manual_seed(overrides.pop("seed", 0))
    num_labels = 2 if head == "ForQuestionAnswering" else 3  # start and end
    sizes: dict[str, Any] = {"vocab_size": 60, "max_position_embeddings": 64, "num_labels": num_labels}
    if family == "DistilBert":
        sizes |= {"dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 40}
    else:
        sizes |= {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    if family == "Electra":
        sizes["embedding_size"] = 12
    attention = overrides.pop("attn_implementation", "sdpa")
    config = getattr(transformers, f"{family}Config")(**{**sizes, **overrides}, pad_token_id=1)
    config._attn_implementation = attention
    return enlarged(getattr(transformers, f"{family}{head}")(config).eval())


def make_batch(batch: int = 5, length: int = 12, *, labels: int | None = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ids with padding on the right, different lengths, and class labels."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, length + 1, (batch,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths.unsqueeze(1)).long()
    ids = torch.randint(3, 60, (batch, length), generator=generator) * mask + (1 - mask)
    made = {"input_ids": ids, "attention_mask": mask, "index": torch.arange(batch)}
    if labels:
        made["labels"] = torch.randint(labels, (batch,), generator=generator)
    return made


def random_masks(
    model: PreTrainedModel, seed: int = 0, *, emptied: Sequence[int] = (), scaled: bool = False
) -> list[torch.Tensor]:
    """Masks of zeros and ones that keep some six tenths of the units.

    Each sublayer keeps one at least, but for those `emptied`; factors are not 0 or 1 if `scaled`.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = [(torch.rand(s.num_units, generator=generator) < 0.6).float() for s in find_sublayers(model)]
    for i, mask in enumerate(masks):
        mask[:1] = 1
        mask *= i not in emptied
    return [mask * (torch.rand(len(mask), generator=generator) * 3 - 1) for mask in masks] if scaled else masks


def make_table(model: PreTrainedModel, *, elsewhere: bool = False, **setting: Any) -> LatencyTable:
    """A table made by hand: a head takes 1 ms, a neuron 0.05, an empty sublayer 0.1, all else 2.

    It says that it was measured here, unless `elsewhere`; then it says nothing. Other words change what it says.
    """
    sublayers = find_sublayers(model)
    heads, neurons = (np.arange(widest(sublayers, kind) + 1.0) for kind in ("attention", "ffn"))
    said = {} if elsewhere else {**describe_setting(model, 2, 8, "eager"), **setting}
    return LatencyTable({"attention": 0.1 + heads, "ffn": 0.1 + 0.05 * neurons}, 2.0, said)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over a few words, with BERT's special tokens and pair layout."""
    vocabulary = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        pad_token="[PAD]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_rows(count: int = 40, labels: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences of random words with a class label."""
    generator = torch.Generator().manual_seed(seed)

    def words() -> Sequence[str]:
        size = int(torch.randint(2, 10, (), generator=generator))
        return [WORDS[i] for i in torch.randint(len(WORDS), (size,), generator=generator)]

    return [{"sentence": " ".join(words()), "label": i % labels} for i in range(count)]


def without_intervals(scores: dict[str, float]) -> dict[str, float]:
    """The metrics themselves, without the widths of their intervals."""
    return {name: value for name, value in scores.items() if not name.endswith("_ci95")}


@pytest.fixture(autouse=True)
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are timed in few turns: what a tiny model takes is noise."""
    monkeypatch.setattr("trimformer.costs.timing.MIN_TURNS", 2)
    monkeypatch.setattr("trimformer.costs.timing.MAX_TURNS", 3)


@pytest.fixture(autouse=True)
def empty_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are drawn in tests of pages only; elsewhere they would take a fifth of every command that prunes."""
    if "tests/reporting/page/" not in request.node.nodeid:
        monkeypatch.setattr("trimformer.reporting.page.plots.draw", lambda name, *_, **__: Markup("<svg></svg>"))


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    from tests.commands import save_model

    return save_model(tmp_path / "in" / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    from tests.commands import write_jsonl

    return write_jsonl(tmp_path / "in" / "rows.jsonl", make_rows())
