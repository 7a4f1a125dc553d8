"""Builds a fast tokenizer with fewer tokens that splits the given texts exactly as before.

Why the splits do not change, by kind of tokenizer:

    WordLevel  a word is a token or it is not.
    WordPiece  takes the longest token that fits; where that one stays, shorter and longer ones change nothing. A word
               that becomes [UNK] must fail again at the same character, so the pieces found before it stay too.
    BPE        a merge happens if its parts are there and it is the first of those possible. All that makes a token that
               stays, in whatever order, stays: of the merges that are left, the same ones happen in the same order.
    Unigram    the best path stays the best among fewer. An unknown character costs ten more than the least likely
               token, which stays for that reason.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from trimformer.errors import TrimformerError, one_sentence
from trimformer.utils.temp_dirs import temporary_directory

KINDS = ("WordLevel", "WordPiece", "BPE", "Unigram")

CHUNK_SIZE = 8192  # rows or texts encoded together: bounds the memory

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def check_tokenizer(processor: Any) -> PreTrainedTokenizerBase:
    """Returns the processor if it is a tokenizer that can lose tokens.

    Raises:
        TrimformerError: the processor is no fast tokenizer, or its kind cannot lose tokens.
    """
    name = "None" if processor is None else type(processor).__name__
    if not isinstance(processor, PreTrainedTokenizerBase):
        raise TrimformerError(f"a smaller vocabulary needs the model's tokenizer, not {name}; leave out the vocabulary")
    if getattr(processor, "backend_tokenizer", None) is None:
        raise TrimformerError(
            f"{name} runs in Python, and only tokenizers of the library `tokenizers` can lose tokens; leave out the "
            "vocabulary, or use a fast tokenizer"
        )
    spec = _spec(processor)
    model, kind = spec["model"], spec["model"].get("type")
    if kind not in KINDS:
        raise TrimformerError(
            f"the tokenizer is of the kind {kind}, only those of {', '.join(KINDS)} can lose tokens; leave out the "
            "vocabulary"
        )
    if model.get("dropout"):
        raise TrimformerError(
            "the tokenizer splits words at random (dropout), so what it needs is not known; turn it off"
        )
    if not processor.all_special_tokens:
        raise TrimformerError("the tokenizer has no special tokens, so no text is padded; give it a pad token")
    covered = kind == "BPE" and (_is_byte_level(spec) or model.get("byte_fallback"))
    unknown = model.get("unk_id") if kind == "Unigram" else processor.get_vocab().get(model.get("unk_token"))
    if unknown is None and not covered:
        raise TrimformerError(
            "the tokenizer has no token for what it does not know, so words of dropped tokens would vanish; leave out "
            "the vocabulary"
        )
    return processor


def needed_ids(tokenizer: PreTrainedTokenizerBase, used: Iterable[int], texts: Iterable[str]) -> list[int]:
    """Returns the ids of the tokens to keep, in ascending order.

    These are the used tokens and their merge parts, special and added tokens, and the tokens that spell other words:
    every single character (in WordPiece and BPE also inside or at the end of a word), byte symbols, and the byte
    fallbacks `<0x..>`.

    Args:
        tokenizer: see `check_tokenizer`.
        used: token ids of the encoded texts.
        texts: at least these texts; they are read only if a word became [UNK].
    """
    spec, vocabulary = _spec(tokenizer), tokenizer.get_vocab()
    names = {index: token for token, index in vocabulary.items()}
    model, used = spec["model"], set(used)
    kept = used | {token["id"] for token in spec["added_tokens"]} | set(_post_ids(spec["post_processor"]))
    kept |= {vocabulary[token] for token in tokenizer.all_special_tokens}
    kept |= {spec["padding"]["pad_id"]} if spec["padding"] else set()
    kept |= {index for token, index in vocabulary.items() if _spells(token, model)}
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept |= {scores.index(min(scores))} | ({model["unk_id"]} if model["unk_id"] is not None else set())
    elif model.get("unk_token") in vocabulary:
        kept.add(vocabulary[model["unk_token"]])
    if model["type"] == "WordPiece" and vocabulary[model["unk_token"]] in used:
        kept |= set(_before_failures(tokenizer, model, texts))
    if model["type"] == "BPE":
        parts = _with_parts({names[index] for index in kept}, _merges(model))
        kept = {vocabulary[token] for token in parts}
    return sorted(kept)


def trim_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of the same class and settings with only the kept tokens, renumbered in order.

    Args:
        tokenizer: the original; it is not changed.
        kept: ids in ascending order; see `needed_ids`.

    Raises:
        TrimformerError: the tokenizer class cannot be rebuilt with other ids.
    """
    new = {old: index for index, old in enumerate(kept)}
    spec = _spec(tokenizer)
    model = spec["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
        model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        model["vocab"] = {token: new[old] for token, old in model["vocab"].items() if old in new}
    if model["type"] == "BPE":
        model["merges"] = [[a, b] for a, b, made in _merges(model) if made in model["vocab"]]
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
    if spec["padding"]:
        spec["padding"]["pad_id"] = new[spec["padding"]["pad_id"]]
    _renumber(spec["post_processor"], new)
    what = f"a {type(tokenizer).__name__} cannot be made with fewer tokens"
    with one_sentence(what), temporary_directory() as folder:
        changed = copy.deepcopy(tokenizer)
        changed._tokenizer = Tokenizer.from_str(json.dumps(spec))
        changed.init_kwargs.pop("added_tokens_decoder", None)  # it holds the old numbers
        changed.init_kwargs |= {name: getattr(tokenizer, name) for name in ("padding_side", "truncation_side")}
        changed.save_pretrained(folder)
        made = type(tokenizer).from_pretrained(folder)  # as everybody will get it
    made.name_or_path = tokenizer.name_or_path
    made.init_kwargs["name_or_path"] = tokenizer.name_or_path
    expected = {token: new[old] for token, old in tokenizer.get_vocab().items() if old in new}
    if made.get_vocab() != expected:
        raise TrimformerError(f"{what}: its tokens come out in another order; leave out the vocabulary")
    return made


def _spec(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _is_byte_level(spec: Mapping[str, Any]) -> bool:
    steps = [spec["pre_tokenizer"], spec["normalizer"]]
    steps += [
        inner for step in steps if step for key in ("pretokenizers", "normalizers") for inner in step.get(key, ())
    ]
    return any(step and step["type"] == "ByteLevel" for step in steps)


def _spells(token: str, model: Mapping[str, Any]) -> bool:
    """Whether a token is a single character or byte, at any place in a word."""
    before, after = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    bare = token.removeprefix(before or "") or token
    bare = bare.removesuffix(after or "") or bare
    return len(bare) == 1 or bool(_BYTE.fullmatch(token))


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields both parts of each merge and the merged token."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model["merges"]:
        a, b = merge.split(" ") if isinstance(merge, str) else merge
        yield a, b, a + b.removeprefix(prefix)


def _with_parts(tokens: set[str], merges: Iterable[tuple[str, str, str]]) -> set[str]:
    """Returns the tokens together with all parts of merges that produce them."""
    parts: dict[str, list[str]] = {}
    for a, b, made in merges:
        parts.setdefault(made, []).extend((a, b))
    found, todo = set(tokens), list(tokens)
    while todo:
        new = set(parts.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return found


def _before_failures(
    tokenizer: PreTrainedTokenizerBase, model: Mapping[str, Any], texts: Iterable[str]
) -> Iterator[int]:
    """Yields the ids of pieces that WordPiece matches before it gives a word up as unknown."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    vocabulary, unknown = model["vocab"], model["vocab"][model["unk_token"]]
    spans, texts = set(), iter(texts)
    while chunk := list(islice(texts, CHUNK_SIZE)):
        for text, encoding in zip(chunk, backend.encode_batch(chunk, add_special_tokens=False), strict=True):
            found = zip(encoding.ids, encoding.offsets, strict=True)
            spans |= {text[slice(*offset)] for index, offset in found if index == unknown}
    longest = max(map(len, vocabulary))
    for span in spans:
        normal = backend.normalizer.normalize_str(span) if backend.normalizer else span
        words = backend.pre_tokenizer.pre_tokenize_str(normal) if backend.pre_tokenizer else [(normal, None)]
        # A longer word is unknown whatever the vocabulary is.
        tried = (word for word, _ in words if len(word) <= model["max_input_chars_per_word"])
        yield from chain.from_iterable(
            _pieces(word, vocabulary, model["continuing_subword_prefix"], longest) for word in tried
        )


def _pieces(word: str, vocabulary: Mapping[str, int], prefix: str, longest: int) -> Iterator[int]:
    """Yields the ids of the longest matching tokens, up to the first character without a match.

    Args:
        word: a normalized word.
        vocabulary: id of each token.
        prefix: what tokens inside a word begin with.
        longest: characters of the longest token, which bounds the work for each character of the word.
    """
    start = 0
    while start < len(word):
        ends = range(min(len(word), start + longest), start, -1)
        candidates = (((prefix if start else "") + word[start:end], end) for end in ends)
        found = next((candidate for candidate in candidates if candidate[0] in vocabulary), None)
        if found is None:
            return
        yield vocabulary[found[0]]
        start = found[1]


def _post_ids(post: Mapping[str, Any] | None) -> Iterator[int]:
    """Yields the ids of the tokens that a post-processor adds around texts."""
    for inner in (post or {}).get("processors", ()):
        yield from _post_ids(inner)
    for token in (post or {}).get("special_tokens", {}).values():
        yield from token["ids"]
    yield from (post[key][1] for key in ("cls", "sep") if post and key in post)


def _renumber(post: dict[str, Any] | None, new: Mapping[int, int]) -> None:
    """Renumbers the ids of a post-processor in place."""
    for inner in (post or {}).get("processors", ()):
        _renumber(inner, new)
    for token in (post or {}).get("special_tokens", {}).values():
        token["ids"] = [new[old] for old in token["ids"]]
    for key in ("cls", "sep"):
        if post and key in post:
            post[key][1] = new[post[key][1]]
