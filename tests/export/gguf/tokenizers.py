"""Tiny tokenizers of the kinds that GGUF knows, trained on a few words."""

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.checkpoints.tiny_tokenizers import CORPUS
from trimformer.export.gguf.tokenizer import _SPLITS
from trimformer.export.gguf.verify import TEXTS

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def bpe(split: str = "gpt-2") -> Tokenizer:
    """Byte-level BPE with one of the splits that llama.cpp has a name for."""
    key = next(key for key, name in _SPLITS.items() if name == split)
    made = Tokenizer(models.BPE())
    parts: list[Any] = []
    for part in key:
        if part == "digits":
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        elif part != "bytes":
            parts.append(pre_tokenizers.Split(Regex(part), behavior="isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex="bytes" in key))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet)
    made.train_from_iterator([*CORPUS, *TEXTS], trainer)
    return made


def sentencepiece_bpe() -> Tokenizer:
    """BPE as Transformers converts it from SentencePiece: merges for every split of every token, bytes for the rest."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator([*CORPUS, *TEXTS[:3]], trainers.BpeTrainer(vocab_size=60))
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    names = {token: i for i, token in enumerate([*SPECIAL, *BYTES, *(p for p in pieces if len(p) > 1)])}
    names |= {piece: len(names) + i for i, piece in enumerate(p for p in pieces if len(p) == 1)}
    merges = [
        (piece[:i], piece[i:])
        for piece in names
        if piece in trained.get_vocab()
        for i in range(1, len(piece))
        if piece[:i] in names and piece[i:] in names
    ]
    made = Tokenizer(models.BPE(names, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def unigram() -> Tokenizer:
    """Unigram of SentencePiece."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    letters = sorted(set("".join(TEXTS)))
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", initial_alphabet=[*letters, "▁"]
    )
    made.train_from_iterator([*CORPUS, *TEXTS], trainer)
    return made


def wrapped(made: Tokenizer, **names: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **names}
    )


KINDS: dict[str, Callable[[], Tokenizer]] = {
    **{name: lambda name=name: bpe(name) for name in _SPLITS.values()},  # type: ignore[misc]
    "llama": sentencepiece_bpe,
    "t5": unigram,
}
