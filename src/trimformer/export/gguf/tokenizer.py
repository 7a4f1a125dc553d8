"""Describes a tokenizer of Hugging Face in the terms of GGUF.

llama.cpp has its own tokenizers: `gpt2` for byte-level BPE, whose splitting of texts into words has a name, `llama` for
BPE made by SentencePiece, and `t5` for Unigram.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.errors import TrimformerError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

# How byte-level tokenizers split a text into words (regular expressions, or "digits") -> llama.cpp's name for it.
_SPLITS = {
    ("bytes",): "gpt-2",
    ("digits", "bytes"): "smollm",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",): "llama-bpe",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",): "qwen2",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "tekken",
}


@dataclass
class GgufVocabulary:
    """A tokenizer as GGUF describes it.

    Attributes:
        model: llama.cpp's name of the algorithm.
        tokens: one for each row of the embeddings.
        types: the kind of each token, as numbers of `gguf.TokenType`.
        special: roles ("bos", "eos", "eot", "eom", "unk", "pad") -> token ids; eos, eot and eom end generation.
        adds: roles ("bos", "eos") -> whether the tokenizer puts this token around a text.
        pre: llama.cpp's name for the split into words.
        merges: pairs of tokens with a space between them, in order.
        scores: of the tokens; None where merges stand for them.
        space_prefix: whether a space is put before a text.
        single_spaces: whether runs of spaces become one.
        charsmap: SentencePiece's table of normalized characters.
        chat_template: of the tokenizer, or several with names.
        other_ends: tokens that end generation in Transformers and for which GGUF has no role.
    """

    model: str
    tokens: list[str]
    types: list[int]
    special: dict[str, int] = field(default_factory=dict)
    adds: dict[str, bool] = field(default_factory=dict)
    pre: str = "default"
    merges: list[str] = field(default_factory=list)
    scores: list[float] | None = None
    space_prefix: bool | None = None
    single_spaces: bool | None = None
    charsmap: bytes = b""
    chat_template: Any = None
    other_ends: list[int] = field(default_factory=list)

    def add_to(self, writer: Any) -> None:
        """Adds the fields to a GGUF writer."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        for role, token in self.special.items():
            getattr(writer, f"add_{role}_token_id")(token)
        for role, adds in self.adds.items():
            getattr(writer, f"add_add_{role}_token")(adds)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        if self.single_spaces is not None:
            writer.add_remove_extra_whitespaces(self.single_spaces)
        if self.charsmap:
            writer.add_precompiled_charsmap(self.charsmap)
        if self.chat_template:
            templates = self.chat_template
            if isinstance(templates, dict):
                templates = [{"name": name, "template": text} for name, text in templates.items()]
            writer.add_chat_template(templates)


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> GgufVocabulary:
    """Describes a tokenizer in the terms of GGUF.

    Args:
        tokenizer: of the model.
        model: for the number of its embeddings, and its end-of-text token where the tokenizer names none.

    Raises:
        TrimformerError: GGUF has no words for this tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused(f"a {type(tokenizer).__name__} has no file tokenizer.json; convert it to a fast tokenizer")
    spec = json.loads(backend.to_str())
    kind = spec["model"]["type"]
    if kind == "BPE" and (spec["model"].get("continuing_subword_prefix") or spec["model"].get("end_of_word_suffix")):
        raise _refused("BPE with prefixes or suffixes of words has no counterpart in llama.cpp; byte-level BPE has")
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if len(tokenizer) > rows:
        raise _refused(f"the tokenizer has {len(tokenizer)} tokens, but the model {rows} embeddings")
    steps = _steps(spec["pre_tokenizer"])
    if kind == "BPE" and any(step["type"] == "ByteLevel" for step in steps):
        vocabulary = _byte_level(spec, steps)
    elif kind == "BPE" and spec["model"].get("byte_fallback"):
        vocabulary = _sentencepiece(spec, steps)
    elif kind == "Unigram":
        vocabulary = _unigram(spec, steps)
    else:
        raise _refused(f"{kind} tokenizers without byte-level or byte-fallback tokens have no counterpart in llama.cpp")
    _add_tokens(vocabulary, spec, backend, rows)
    _add_special(vocabulary, tokenizer, model)
    vocabulary.chat_template = getattr(tokenizer, "chat_template", None)
    return vocabulary


def _refused(reason: str) -> TrimformerError:
    """Returns the error that names why a tokenizer cannot be written."""
    return TrimformerError(f"this tokenizer cannot be written to a GGUF file: {reason}")


def _steps(part: Any) -> list[dict[str, Any]]:
    """Returns the steps of a normalizer or pre-tokenizer as a flat list."""
    if part is None:
        return []
    inner = part.get("pretokenizers") or part.get("normalizers")
    return [step for each in inner for step in _steps(each)] if inner else [part]


def _byte_level(spec: dict[str, Any], steps: list[dict[str, Any]]) -> GgufVocabulary:
    """Describes byte-level BPE.

    Raises:
        TrimformerError: llama.cpp has no name for its split into words.
    """
    odd = [step["type"] for step in _steps(spec["normalizer"]) if step["type"] != "NFC"]
    if odd:
        raise _refused(f"llama.cpp has no normalizer {odd[0]} before byte-level BPE")
    key = []
    for step in steps:
        if step["type"] == "ByteLevel":
            if step.get("add_prefix_space"):
                raise _refused("llama.cpp puts no space before texts of byte-level BPE (add_prefix_space)")
            key += ["bytes"] if step.get("use_regex", True) else []
        elif step["type"] == "Digits" and step.get("individual_digits"):
            key.append("digits")
        elif step["type"] == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            key.append(step["pattern"].get("Regex") or step["pattern"].get("String"))
        else:
            key.append(json.dumps(step, sort_keys=True))
    if tuple(key) not in _SPLITS:
        raise _refused(
            "llama.cpp has no known name for its split of texts into words; known are those of "
            f"{', '.join(_SPLITS.values())}"
        )
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in spec["model"]["merges"]]
    return GgufVocabulary("gpt2", [], [], pre=_SPLITS[tuple(key)], merges=merges)


def _sentencepiece(spec: dict[str, Any], steps: list[dict[str, Any]]) -> GgufVocabulary:
    """Describes SentencePiece's BPE: llama.cpp merges by the score of the result instead of by a list of pairs."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(spec["model"]["merges"]):
        ranks.setdefault("".join(pair if isinstance(pair, list) else pair.split(" ", 1)), rank)
    last = -float(len(ranks) + 1)
    scores = {token: -float(ranks[token]) if token in ranks else last for token in spec["model"]["vocab"]}
    tokens = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
    prefix = _space_prefix(steps) or any(step["type"] == "Prepend" for step in _steps(spec["normalizer"]))
    return GgufVocabulary(
        "llama", [], [], scores=[scores[token] for token in tokens], space_prefix=prefix, single_spaces=False
    )


def _unigram(spec: dict[str, Any], steps: list[dict[str, Any]]) -> GgufVocabulary:
    """Describes Unigram.

    Raises:
        TrimformerError: llama.cpp has no counterpart of its normalizer, or of its tokens for bytes.
    """
    if spec["model"].get("byte_fallback"):
        raise _refused("llama.cpp has no Unigram with tokens for bytes")
    charsmap, single = b"", False
    for step in _steps(spec["normalizer"]):
        if step["type"] == "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"] or "")
        elif step["type"] == "Strip" or (step["type"] == "Replace" and step["pattern"].get("Regex") == " {2,}"):
            single = True
        else:
            raise _refused(f"llama.cpp has no normalizer {step['type']} before Unigram")
    scores = [score for _, score in spec["model"]["vocab"]]
    return GgufVocabulary(
        "t5", [], [], scores=scores, space_prefix=_space_prefix(steps), single_spaces=single, charsmap=charsmap
    )


def _space_prefix(steps: list[dict[str, Any]]) -> bool:
    """Whether the pre-tokenizer puts a space before a text."""
    return any(step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps)


def _add_tokens(vocabulary: GgufVocabulary, spec: dict[str, Any], backend: Any, rows: int) -> None:
    """Adds tokens and their types; rows of the embeddings without a token get one that no text contains."""
    import gguf

    kinds = gguf.TokenType
    by_id = {token_id: token for token, token_id in backend.get_vocab(with_added_tokens=True).items()}
    vocabulary.tokens = [by_id.get(i, f"[unused-row-{i}]") for i in range(rows)]
    vocabulary.types = [kinds.NORMAL if i in by_id else kinds.UNUSED for i in range(rows)]
    if vocabulary.scores is not None:
        vocabulary.scores += [0.0] * (rows - len(vocabulary.scores))
    if spec["model"].get("byte_fallback"):
        for byte in range(256):
            token_id = backend.token_to_id(f"<0x{byte:02X}>")
            if token_id is not None:
                vocabulary.types[token_id] = kinds.BYTE
    for token in spec["added_tokens"]:
        vocabulary.types[token["id"]] = kinds.CONTROL if token["special"] else kinds.USER_DEFINED


def _add_special(vocabulary: GgufVocabulary, tokenizer: Any, model: PreTrainedModel) -> None:
    """Adds the ids of special tokens, and which of them the tokenizer puts around a text.

    Raises:
        TrimformerError: there is no end-of-text token, or the tokenizer adds tokens that GGUF has no flag for.
    """
    import gguf

    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    before, after = whole[:start], whole[start + len(plain) :]
    named = (getattr(config, "eos_token_id", None) for config in (model.generation_config, model.config))
    ends = next(([ids] if isinstance(ids, int) else ids for ids in named if ids is not None), [])
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(ends), None)
    others = [token for token in dict.fromkeys(ends) if token != eos and 0 <= token < len(vocabulary.tokens)]
    # llama.cpp makes tokens of these roles special, which would change how texts are split.
    special = [token for token in others if vocabulary.types[token] == gguf.TokenType.CONTROL]
    eot, eom = (*special, None, None)[:2]
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None or not before else before[0]
    if eos is None or not 0 <= eos < len(vocabulary.tokens):
        raise _refused("it has no end-of-text token; give it an eos_token")
    if before not in ([], [bos]) or after not in ([], [eos]):
        raise _refused("it puts tokens around texts that are not its bos_token and eos_token")
    vocabulary.other_ends = [token for token in others if token not in (eot, eom)]
    ids = {"bos": bos, "eos": eos, "eot": eot, "eom": eom, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    vocabulary.special = {role: token for role, token in ids.items() if token is not None}
    vocabulary.adds = {"bos": bool(before), "eos": bool(after)}
    unknown = tokenizer.unk_token_id
    if unknown is not None and vocabulary.model != "gpt2":
        vocabulary.types[unknown] = gguf.TokenType.UNKNOWN
