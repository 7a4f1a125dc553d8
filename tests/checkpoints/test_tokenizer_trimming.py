"""Fast tokenizers with fewer tokens read the texts that they were made for as before."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    models,
    pre_tokenizers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.checkpoints.tiny_tokenizers import (
    CORPUS,
    KINDS,
    SPECIAL,
    byte_level,
    tokens,
    trained,
    unigram,
    with_suffix,
    wordpiece,
)
from trimformer.checkpoints import tokenizer_trimming
from trimformer.checkpoints.tokenizer_trimming import check_tokenizer, needed_ids, trim_tokenizer
from trimformer.errors import TrimformerError

TEXTS = st.lists(st.text("abc☃ d", max_size=24), min_size=1, max_size=4)


def smaller(tokenizer: Any, texts: list[str]) -> Any:
    used = {index for ids in tokenizer(texts)["input_ids"] for index in ids}
    return trim_tokenizer(tokenizer, needed_ids(tokenizer, used, texts))


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_split_as_before(kind: Any) -> None:
    tokenizer = trained(kind)

    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    def holds(texts: list[str]) -> None:
        assert tokens(smaller(tokenizer, texts), texts) == tokens(tokenizer, texts)

    holds()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_keep_their_order_and_leave_no_gap(kind: Any) -> None:
    tokenizer = trained(kind)
    small = smaller(tokenizer, ["abc ab"]).get_vocab()
    assert sorted(small.values()) == list(range(len(small)))
    assert sorted(small, key=small.__getitem__) == sorted(small, key=tokenizer.get_vocab().__getitem__)
    assert len(small) < len(tokenizer)


def plain(model: Any) -> PreTrainedTokenizerFast:
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")


PIECES = st.sets(st.text("abc", min_size=1, max_size=4), max_size=12)
WORDS = st.lists(st.text("abc ", max_size=12), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(PIECES, PIECES, WORDS)
def test_any_wordpiece_splits_and_gives_up_as_before(first: set[str], inner: set[str], texts: list[str]) -> None:
    names = ["[UNK]", "[PAD]", *sorted(first), *(f"##{piece}" for piece in sorted(inner))]
    tokenizer = plain(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    assert tokens(smaller(tokenizer, texts), texts) == tokens(tokenizer, texts)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(-30, -1), max_size=12), WORDS)
def test_any_unigram_finds_the_same_best_path(scores: dict[str, int], texts: list[str]) -> None:
    entries = [("[UNK]", 0.0), ("[PAD]", 0.0), *((piece, float(score)) for piece, score in scores.items())]
    tokenizer = plain(models.Unigram(entries, unk_id=0))
    assert tokens(smaller(tokenizer, texts), texts) == tokens(tokenizer, texts)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=12), WORDS)
def test_any_bpe_merges_in_the_same_order(picks: list[tuple[int, int]], texts: list[str]) -> None:
    symbols, merges = ["a", "b", "c"], []
    for left, right in picks:
        merges.append((symbols[left % len(symbols)], symbols[right % len(symbols)]))
        symbols += [made] if (made := "".join(merges[-1])) not in symbols else []
    vocabulary = {name: i for i, name in enumerate(["[UNK]", "[PAD]", *symbols])}
    tokenizer = plain(models.BPE(vocabulary, list(dict.fromkeys(merges)), unk_token="[UNK]"))
    assert tokens(smaller(tokenizer, texts), texts) == tokens(tokenizer, texts)


def test_a_word_that_wordpiece_gives_up_stays_unknown_though_shorter_pieces_would_fit() -> None:
    names, texts = ["[UNK]", "[PAD]", "a", "##b", "##c", "ab", "abc", "##cd"], ["ab", "acd", "abcd"]
    tokenizer = plain(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    assert tokens(smaller(tokenizer, texts), texts) == [["ab"], ["a", "##cd"], ["[UNK]"]]


class Counted(dict[str, int]):
    """A vocabulary that counts the characters of the words looked up in it."""

    work = 0

    def __contains__(self, word: object) -> bool:
        self.work += len(str(word))
        return super().__contains__(word)


def test_the_work_for_a_word_grows_with_its_length() -> None:
    vocabulary = {"a": 0, "##a": 1, "##ab": 2, "##b": 3}
    work = []
    for size in (500, 1000, 2000):
        counted = Counted(vocabulary)
        ids = list(tokenizer_trimming._pieces("ab" * size, counted, "##", longest=4))
        assert ids == [0, 3] + [2] * (size - 1)  # a, ##b, then ##ab
        work.append(counted.work)
    assert work[1] < 2.1 * work[0]
    assert work[2] < 2.1 * work[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_word_without_a_space_takes_no_more_lookups_than_a_short_one(kind: Any, monkeypatch: Any) -> None:
    tried: list[str] = []
    pieces = tokenizer_trimming._pieces
    monkeypatch.setattr(
        tokenizer_trimming, "_pieces", lambda word, *rest: [*pieces(word, *rest), tried.append(word)][:-1]
    )
    tokenizer, texts = trained(kind), ["abc" * 30_000, "abcd"]
    assert tokens(smaller(tokenizer, texts), texts) == tokens(tokenizer, texts)
    assert max(map(len, tried), default=0) <= 100  # WordPiece gives up longer words without a look


def test_an_unknown_character_costs_unigram_what_it_did() -> None:
    entries = [("[UNK]", 0.0), ("[PAD]", 0.0), ("a", -15.0), ("xa", -15.0), ("aa", -1.0), ("zz", -100.0)]
    tokenizer = plain(models.Unigram(entries, unk_id=0))
    texts = ["xaa", "aa"]  # an unknown x before "aa" would be likelier if "zz" were gone
    assert tokens(smaller(tokenizer, texts), texts) == [["xa", "a"], ["aa"]]


@pytest.mark.parametrize("kind", [wordpiece, byte_level, with_suffix, unigram])
def test_new_words_of_known_letters_are_spelled(kind: Any) -> None:
    tokenizer = trained(kind)
    small = smaller(tokenizer, ["abba"])
    assert small.unk_token_id not in small("cacbbc")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_pairs_and_special_tokens_survive_a_directory(kind: Any, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    tokenizer.add_tokens(["<name>"])
    tokenizer.padding_side, tokenizer.truncation_side = "left", "left"
    small = smaller(tokenizer, ["abc ab", "cab"])
    small.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    given: dict[str, Any] = {"padding": "max_length", "max_length": 12, "truncation": True}
    old, new = (t("abc <name> ab", "cab", **given) for t in (tokenizer, loaded))
    assert loaded.convert_ids_to_tokens(new["input_ids"]) == tokenizer.convert_ids_to_tokens(old["input_ids"])
    assert {k: v for k, v in new.items() if k != "input_ids"} == {k: v for k, v in old.items() if k != "input_ids"}
    assert loaded.model_max_length == 32
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.get_vocab() == small.get_vocab()


OWN = {
    "BertTokenizer": (wordpiece, SPECIAL),
    "MPNetTokenizer": (wordpiece, ["<s>", "[UNK]", "<pad>", "</s>", "<mask>"]),
    "RobertaTokenizer": (byte_level, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
    "XLMRobertaTokenizer": (unigram, ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]),
    "DebertaV2Tokenizer": (unigram, SPECIAL),
    "T5Tokenizer": (unigram, ["<pad>", "</s>", "[UNK]"]),
}


@pytest.mark.parametrize("name", OWN)
def test_classes_that_build_their_tokenizer_themselves_can_lose_tokens(name: str) -> None:
    kind, special = OWN[name]
    made, trainer = kind()
    trainer.special_tokens = special
    made.train_from_iterator(CORPUS, trainer)
    model = json.loads(made.to_str())["model"]
    parts = {
        "vocab": [tuple(entry) for entry in model["vocab"]] if isinstance(model["vocab"], list) else model["vocab"]
    }
    parts |= {"merges": [tuple(merge) for merge in model["merges"]]} if "merges" in model else {}
    tokenizer = getattr(transformers, name)(**parts, unk_token=special[-2] if "<unk>" in special else "[UNK]")
    texts = ["abc ab", "cab abba ☃"]
    small = smaller(tokenizer, texts)
    assert type(small) is type(tokenizer)
    assert len(small) < len(tokenizer)
    assert tokens(small, texts) == tokens(tokenizer, texts)
    old, new = (t(*texts, return_token_type_ids=True)["token_type_ids"] for t in (tokenizer, small))
    assert new == old


def test_padding_that_is_set_in_the_tokenizer_pads_with_the_new_id() -> None:
    tokenizer = trained(unigram)
    tokenizer.add_tokens(["<fill>"])
    used = tokenizer("abc")["input_ids"]
    tokenizer.backend_tokenizer.enable_padding(pad_id=len(tokenizer) - 1, pad_token="<fill>", length=9)
    small = trim_tokenizer(tokenizer, needed_ids(tokenizer, used, ["abc"]))
    assert small.backend_tokenizer.padding["pad_id"] == small.get_vocab()["<fill>"]


def test_the_tokenizer_that_was_given_is_left_as_it_was() -> None:
    tokenizer = trained(wordpiece)
    before = tokenizer.backend_tokenizer.to_str()
    smaller(tokenizer, ["abc"])
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_tokenizer_that_has_no_unknown_token_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0, "[PAD]": 1}, [])), pad_token="[PAD]"
    )
    with pytest.raises(TrimformerError, match="no token for what it does not know"):
        check_tokenizer(tokenizer)


def test_a_tokenizer_in_python_is_refused() -> None:
    with pytest.raises(TrimformerError, match="CanineTokenizer runs in Python"):
        check_tokenizer(transformers.CanineTokenizer())


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(TrimformerError, match="needs the model's tokenizer, not None"):
        check_tokenizer(None)
