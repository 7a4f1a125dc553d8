"""Cases of data: files that cannot be read, rows that cannot be meant."""

import gzip
import json
from typing import Any

from tests.hostile.world import Case, both, every, rows, text

EVALUATE = "evaluate model --data {}"
SWEEP = "sweep model --data {} --constraints 0.5 --output out"
PRUNE = "prune model --data {} --constraint 0.5 --output out"

DEEP = "[" * 100_000 + "]" * 100_000
GOOD = '{"sentence": "a film", "label": 1}\n'
ROW = {"sentence": "a film", "label": 1}

# Name of a file, its content, and words of the sentence.
_FILES: dict[str, tuple[str, str | bytes, list[str]]] = {
    "empty": ("rows.jsonl", "", ["rows.jsonl", "empty"]),
    "blank lines": ("rows.jsonl", "\n\n \n", ["rows.jsonl", "empty"]),
    "only a header": ("x.csv", "sentence,label\n", ["x.csv", "empty"]),
    "half a line": ("rows.jsonl", GOOD + '{"sent', ["rows.jsonl", "line 2"]),
    "no JSON": ("rows.jsonl", "hello\n", ["rows.jsonl", "line 1"]),
    "a JSON number": ("rows.jsonl", "7\n", ["rows.jsonl", "row 1"]),
    "a JSON text": ("x.json", '"hello"', ["x.json", "row 1"]),
    "a JSON list of lists": ("x.json", "[[1, 2]]", ["x.json", "row 1"]),
    "an empty JSON list": ("x.json", "[]", ["x.json", "empty"]),
    "half a JSON list": ("x.json", "[" + GOOD, ["x.json"]),
    "deep JSON": ("x.json", DEEP, ["x.json", "nested"]),
    "deep in a row": ("rows.jsonl", f'{{"sentence": {DEEP}}}\n', ["rows.jsonl", "nested"]),
    "a number of 5000 digits": ("rows.jsonl", f'{{"sentence": "a", "label": {"9" * 5000}}}\n', ["rows.jsonl"]),
    "a key twice": ("rows.jsonl", '{"sentence": "a", "sentence": "b", "label": 1}\n', ["'sentence'", "twice"]),
    "a column twice": ("x.csv", "sentence,label,label\na,1,0\n", ["x.csv", "'label'", "twice"]),
    "a column twice in TSV": ("x.tsv", "sentence\tlabel\tsentence\na\t1\tb\n", ["x.tsv", "'sentence'", "twice"]),
    "ragged, more": ("x.csv", "sentence,label\na,1,2\n", ["x.csv", "row 1", "fields"]),
    "ragged, fewer": ("x.csv", "sentence,label\na\n", ["x.csv", "row 1", "fields"]),
    "an open quote": ("x.csv", 'sentence,label\n"a,1\n', ["x.csv"]),
    "not UTF-8": ("rows.jsonl", b'{"sentence": "caf\xe9", "label": 1}\n', ["rows.jsonl", "UTF-8"]),
    "UTF-16 without a mark": ("x.csv", "sentence,label\na,1\n".encode("utf-16-le"), ["x.csv", "UTF-8"]),
    "half a UTF-16": ("x.csv", "sentence,label\na,1\n".encode("utf-16")[:-1], ["x.csv", "UTF-16"]),
    "a bomb": ("x.csv.gz", gzip.compress(b"a,1\n" * (1 << 20)) * 64, ["x.csv.gz", "unpack"]),
    "two tables": ("x.json", json.dumps({"train": [{"a": 1}], "test": [{"a": 1}]}), ["x.json", "train, test"]),
    "zeros": ("x.csv", b"\x00" * 100, ["x.csv"]),
    "no gzip": ("x.csv.gz", "sentence,label\na,1\n", ["x.csv.gz"]),
    "half a gzip": ("x.csv.gz", gzip.compress(b"sentence,label\na,1\n" * 99)[:40], ["x.csv.gz"]),
    "no Parquet": ("x.parquet", b"PAR1" * 9, ["x.parquet"]),
    "empty Parquet": ("x.parquet", b"", ["x.parquet"]),
    "gzipped Parquet": ("x.parquet.gz", gzip.compress(b"PAR1"), ["x.parquet.gz", "type"]),
    "pickle": ("x.pkl", b"\x80\x04.", ["x.pkl", "type"]),
    "npy": ("x.npy", b"\x93NUMPY", ["x.npy", "type"]),
    "no such columns": ("rows.jsonl", '{"a": 1, "b": 2}\n' * 9, ["no text column", "a, b"]),
    "columns differ": ("rows.jsonl", GOOD * 5 + '{"text": "a", "label": 1}\n', ["'sentence'", "row 6"]),
    "a folder of notes": ("folder/notes.md", "hello", ["folder", "train"]),
    "a folder of two kinds": ("folder/train.csv", "sentence,label\n", ["train.csv", "empty"]),
}

NAN = float("nan")
# A row that follows good ones, and words of the sentence.
_ROWS: dict[str, tuple[Any, list[str]]] = {
    "text is a list": ({**ROW, "sentence": ["a", "b"]}, ["'sentence'", "row 13", "list"]),
    "text is an object": ({**ROW, "sentence": {"a": 1}}, ["'sentence'", "row 13", "dict"]),
    "text is a truth": ({**ROW, "sentence": True}, ["'sentence'", "row 13", "True"]),
    "text is NaN": ({**ROW, "sentence": NAN}, ["'sentence'", "row 13", "nan"]),
    "text is infinite": ({**ROW, "sentence": float("inf")}, ["'sentence'", "row 13", "inf"]),
    "text is null": ({**ROW, "sentence": None}, ["'sentence'", "row 13", "empty"]),
    "no text": ({"label": 1}, ["'sentence'", "row 13"]),
    "lone surrogate": ({**ROW, "sentence": "a \ud800 b"}, ["'sentence'", "row 13", "lone surrogate"]),
    "no label": ({"sentence": "a film"}, ["'label'", "row 13"]),
    "label is null": ({**ROW, "label": None}, ["'label'", "row 13"]),
    "label is NaN": ({**ROW, "label": NAN}, ["nan", "row 13"]),
    "label is infinite": ({**ROW, "label": float("inf")}, ["inf", "row 13"]),
    "label is a list": ({**ROW, "label": [1]}, ["list", "row 13"]),
    "label is an object": ({**ROW, "label": {"a": 1}}, ["row 13"]),
    "label is a fraction": ({**ROW, "label": 0.5}, ["0.5", "row 13"]),
    "label beyond": ({**ROW, "label": 2}, ["label 2", "row 13"]),
    "label below": ({**ROW, "label": -1}, ["label -1", "row 13"]),
    "huge label": ({**ROW, "label": 10**400}, ["row 13"]),
    "unknown label": ({**ROW, "label": "great"}, ["great", "row 13"]),
    "empty label": ({**ROW, "label": ""}, ["row 13"]),
    "digits of others": ({**ROW, "label": "٣"}, ["row 13"]),
    "a row that is a list": ([1, 2], ["row 13"]),
    "a row that is null": (None, ["row 13"]),
}

_SPAN = {"question": "who", "context": "a film", "answers": {"text": ["film"], "answer_start": [2]}}
_WORDS = {"tokens": ["a", "film"], "ner_tags": [0, 1]}
_NUMBER = {"sentence": "a film", "label": 0.5}
_SEVERAL = {"sentence": "a film", "label": [1, 0, 1]}
# The model's kind, a row, and words of the sentence.
_KINDS: dict[str, tuple[str, Any, list[str]]] = {
    "answer elsewhere": ("span", {**_SPAN, "answers": {"text": ["plot"], "answer_start": [2]}}, ["plot", "not match"]),
    "answer one off": ("span", {**_SPAN, "answers": {"text": ["film"], "answer_start": [1]}}, ["answer_start"]),
    "answer beyond": ("span", {**_SPAN, "answers": {"text": ["film"], "answer_start": [9]}}, ["outside"]),
    "answer before": ("span", {**_SPAN, "answers": {"text": ["film"], "answer_start": [-5]}}, ["outside"]),
    "answer is a text": ("span", {**_SPAN, "answers": "film"}, ["'text' and 'answer_start'"]),
    "answer is a list": ("span", {**_SPAN, "answers": ["film"]}, ["'text' and 'answer_start'"]),
    "answer without a start": ("span", {**_SPAN, "answers": {"text": ["film"]}}, ["'text' and 'answer_start'"]),
    "start is a text": ("span", {**_SPAN, "answers": {"text": ["film"], "answer_start": ["x"]}}, ["answer_start"]),
    "start is infinite": (
        "span", {**_SPAN, "answers": {"text": ["film"], "answer_start": [float("inf")]}}, ["answer_start"]
    ),
    "more texts than starts": (
        "span", {**_SPAN, "answers": {"text": ["film", "a"], "answer_start": [2]}}, ["answer"]
    ),
    "no question": ("span", {**_SPAN, "question": None}, ["'question'"]),
    "question is a list": ("span", {**_SPAN, "question": ["who"]}, ["'question'", "list"]),
    "context is a truth": ("span", {**_SPAN, "context": True}, ["'context'", "True"]),
    "answers of null": ("span", {**_SPAN, "answers": None}, ["'answers'"]),
    "more words than tags": ("tokens", {**_WORDS, "ner_tags": [0]}, ["2 words", "1 tags"]),
    "unknown tag": ("tokens", {**_WORDS, "ner_tags": [0, 9]}, ["label 9"]),
    "tag is a text": ("tokens", {**_WORDS, "ner_tags": ["O", "O"]}, ["'O'"]),
    "tag is null": ("tokens", {**_WORDS, "ner_tags": [0, None]}, ["None"]),
    "tags are a number": ("tokens", {**_WORDS, "ner_tags": 1}, ["ner_tags", "not a list"]),
    "words are an object": ("tokens", {**_WORDS, "tokens": {"a": 1, "film": 2}}, ["tokens", "not a list"]),
    "tags are an object": ("tokens", {**_WORDS, "ner_tags": {"0": 1, "1": 2}}, ["ner_tags", "not a list"]),
    "a number beyond float32": ("regression", {**_NUMBER, "label": 1e308}, ["1e+308", "float32"]),
    "words are a number": ("tokens", {**_WORDS, "tokens": 7}, ["tokens", "not a list"]),
    "a word is a list": ("tokens", {**_WORDS, "tokens": ["a", ["b"]]}, ["word", "list"]),
    "a word is null": ("tokens", {**_WORDS, "tokens": ["a", None]}, ["word"]),
    "a number that is none": ("regression", {**_NUMBER, "label": "good"}, ["'good'", "number"]),
    "a number too large": ("regression", {**_NUMBER, "label": 10**400}, ["number"]),
    "a number of NaN": ("regression", {**_NUMBER, "label": NAN}, ["'label'", "row 13"]),
    "a number that is a list": ("regression", {**_NUMBER, "label": [1.0]}, ["number"]),
    "one of several": ("multi_label", {**_SEVERAL, "label": 1}, ["not a list"]),
    "too many of several": ("multi_label", {**_SEVERAL, "label": [1, 0, 1, 9]}, ["9"]),
    "unknown of several": ("multi_label", {**_SEVERAL, "label": ["odd"]}, ["'odd'"]),
    "null among several": ("multi_label", {**_SEVERAL, "label": [1, None, 0]}, ["None"]),
    "embedded list": ("embedding", {"sentence": ["a"]}, ["'sentence'", "list"]),
}  # fmt: skip

FINETUNE = "finetune --model_name_or_path model --train_file rows.jsonl --do_train --use_cpu --output_dir out"
_FINETUNE: dict[str, tuple[Any, list[str]]] = {
    "a class of 10^9": (rows({**ROW, "label": 10**9}), ["label", "1000000000"]),
    "a negative class": (rows({**ROW, "label": -1}), ["label", "-1"]),
    "mixed": (rows({**ROW, "label": "good"}), ["'label'", "mixes"]),
    "numbers, then a list": (
        both(every(label=[1]), rows({**ROW, "label": 1})),
        ["'label'", "mixes lists of labels and single labels"],
    ),
    "a label too large": (rows({**ROW, "label": 1e308}), ["'label'", "1e+308"]),
    "a row without a label": (rows({"sentence": "a film"}), ["'label'", "row 13"]),
    "objects": (every(label={"a": 1}), ["'label'", "neither"]),
    "lists and numbers": (rows({**ROW, "label": [1]}), ["'label'"]),
    "no labels": (rows({"sentence": "a film"}, instead=True), ["too few"]),
    "a text that is a list": (every(sentence=["a"]), ["'sentence'", "list"]),
}

CASES = {
    "finetune: a number beyond float32": Case(
        FINETUNE, ["1e+308", "row 13", "float32"], rows({**_NUMBER, "label": 1e308}), "regression"
    ),
    "finetune: an adapter beside the weights": Case(
        FINETUNE, ["adapter_config.json", "merge_and_unload"], text("model/adapter_config.json", "{}")
    ),
    **{
        f"{command} {name}": Case(words.replace("{}", file.split("/")[0]), says, text(file, content))
        for name, (file, content, says) in _FILES.items()
        for command, words in (("evaluate", EVALUATE), ("prune", PRUNE))
    },
    **{
        f"{command} row: {name}": Case(words.replace("{}", "rows.jsonl"), says, rows(row))
        for name, (row, says) in _ROWS.items()
        for command, words in (("evaluate", EVALUATE),)
    },
    **{
        f"{problem}: {name}": Case(EVALUATE.replace("{}", "rows.jsonl"), says, rows(row), problem)
        for name, (problem, row, says) in _KINDS.items()
    },
    **{f"finetune: {name}": Case(FINETUNE, says, spoil) for name, (spoil, says) in _FINETUNE.items()},
    **{
        f"{command}: no row has a text": Case(words.replace("{}", "rows.jsonl"), ["have no text"], every(sentence=" "))
        for command, words in (("evaluate", EVALUATE), ("prune", PRUNE), ("sweep", SWEEP))
    },
    "half the splits have labels": Case(
        PRUNE.replace("{}", "folder"),
        ["'label'", "splits"],
        lambda folder: [
            text("folder/train.jsonl", '{"sentence": "a film"}\n' * 9)(folder),
            text("folder/validation.jsonl", GOOD * 9)(folder),
        ],
    ),
    "a label column of questions": Case(
        PRUNE.replace("{}", "rows.jsonl") + " --label-column answers",
        ["no labels per sample", "'answers'"],
        problem="span",
    ),
    "a label column of questions to finetune": Case(FINETUNE + " --label_column answers", ["no label"], problem="span"),
    "deep object": Case(
        EVALUATE.replace("{}", "x.json"), ["nested"], text("x.json", json.dumps([ROW])[:-1] + "," + DEEP)
    ),
}
