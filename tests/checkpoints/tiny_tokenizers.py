"""Tiny tokenizers of every supported kind, trained on a small corpus."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Few letters, so that words share their pieces; ☃ was never seen in training but after a c.
CORPUS = ["abcab cabba abba", "bacca cab abcabc", "aab bba cca abc☃", "c☃ abab caca bcbc", "acbacb bacbac aabbcc"] * 4


def wordpiece() -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.normalizer = normalizers.BertNormalizer()
    return made, trainers.WordPieceTrainer(vocab_size=60, special_tokens=SPECIAL, limit_alphabet=3)


def byte_level() -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made, trainers.BpeTrainer(vocab_size=310, special_tokens=SPECIAL, initial_alphabet=alphabet)


def with_suffix() -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made, trainers.BpeTrainer(vocab_size=60, special_tokens=SPECIAL, end_of_word_suffix="</w>", limit_alphabet=3)


def unigram() -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return made, trainers.UnigramTrainer(vocab_size=40, special_tokens=SPECIAL, unk_token="[UNK]")


def word_level() -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made, trainers.WordLevelTrainer(special_tokens=SPECIAL)


KINDS = [wordpiece, byte_level, with_suffix, unigram, word_level]


def trained(kind: Callable[[], tuple[Tokenizer, Any]]) -> PreTrainedTokenizerFast:
    """A tokenizer trained on the corpus that lays out pairs as BERT does."""
    made, trainer = kind()
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names, model_max_length=32)


def tokens(tokenizer: Any, texts: list[str]) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(texts)["input_ids"]]
