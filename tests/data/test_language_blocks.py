"""Blocks of tokens: every token is predicted once, only answers count, and bad input is refused in a sentence."""

import json
from itertools import pairwise

import numpy as np
import pytest

from testing.language import byte_tokenizer, language_model
from trimformer.data.language_blocks import as_blocks
from trimformer.data.rows import DOCUMENT, as_rows, is_blocks, number_alike, shuffled_rows
from trimformer.data.splits import find_splits, read_splits
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import NEXT_TOKENS

TOKENIZER, CONFIG = byte_tokenizer(), language_model().config
END = TOKENIZER.eos_token_id


def blocks_of(data, length=16, **columns):
    return as_blocks(as_rows(data), TOKENIZER, CONFIG, length=length, **columns)


def counted_text(blocks):
    return TOKENIZER.decode([token for block in blocks for token in block[NEXT_TOKENS] if token != -100])


def documents_of(blocks):
    return number_alike(block[DOCUMENT] for block in blocks)


def test_a_block_tells_the_document_that_is_in_its_middle():
    texts = ["a" * 30, "b" * 30, "a" * 30, *"cde", "f" * 40]
    blocks = blocks_of(texts)
    assert documents_of(blocks) == [0, 0, 1, 1, 0, 0, 2, 2, 2]
    middles = [TOKENIZER.decode(block["input_ids"][len(block["input_ids"]) // 2]) for block in blocks]
    assert middles == [*"aabbaa", *"fff"]


@pytest.mark.parametrize("encoded", [False, True])
def test_blocks_of_one_conversation_and_of_its_copies_are_one_document(encoded):
    texts = ["a longer answer than one block", "another", "a longer answer than one block"]
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]} for text in texts]
    if encoded:
        rows = [{"input_ids": TOKENIZER(text)["input_ids"]} for text in texts]
    documents = documents_of(blocks_of(rows))
    half = (len(documents) - documents.count(1)) // 2
    assert documents == [0] * half + [1] * documents.count(1) + [0] * half
    assert half > 1


@pytest.mark.parametrize("texts", [["a longer text than a block, in bytes"], ["ab", "c", "defg" * 9], ["x" * 17]])
def test_each_token_of_joined_documents_is_predicted_once(texts):
    blocks = blocks_of(texts)
    stream = [token for text in texts for token in (*TOKENIZER(text)["input_ids"], END)]
    assert [token for block in blocks for token in block["input_ids"]] == stream[:-1]
    assert [token for block in blocks for token in block[NEXT_TOKENS]] == stream[1:]


def test_blocks_have_equal_lengths_up_to_the_limit():
    lengths = {len(block["input_ids"]) for block in blocks_of(["y" * 100])}
    assert max(lengths) <= 16
    assert max(lengths) - min(lengths) <= 1


def test_the_default_length_is_that_of_the_model_if_it_takes_less_than_512():
    assert max(len(block["input_ids"]) for block in blocks_of(["z" * 1000], length=None)) in (125, 126, 127, 128)


def test_blocks_stay_as_they_are():
    blocks = blocks_of(["a text of some bytes, and more"])
    assert is_blocks(blocks)
    assert as_blocks(blocks, TOKENIZER, CONFIG, length=8) is blocks


def test_only_answers_of_a_conversation_count():
    messages = [
        {"role": "user", "content": "hi?"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "no"},
    ]
    blocks = blocks_of([{"messages": messages}], length=128)
    assert len(blocks) == 1
    assert TOKENIZER.decode(blocks[0]["input_ids"]).startswith("<s>user: hi?</s><s>assistant: hello</s>")
    assert counted_text(blocks) == "hello</s>no</s>"


def test_conversations_in_other_notations_count_the_same():
    shared = [{"from": "human", "value": "hi?"}, {"from": "gpt", "value": "hello"}]
    assert counted_text(blocks_of([{"conversations": shared}], length=64)) == "hello</s>"
    pairs = [{"prompt": "hi?", "completion": "hello"}]
    assert counted_text(blocks_of(pairs, length=64)) == "hello</s>"
    assert counted_text(blocks_of([{"q": "hi?", "a": "hello"}], length=64, columns=["q", "a"])) == "hello</s>"


def test_prompts_and_answers_without_a_template_are_joined_by_a_line_end():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    blocks = as_blocks([{"prompt": "2 + 2", "answer": "4"}], tokenizer, CONFIG, length=64)
    assert tokenizer.decode(blocks[0]["input_ids"]) == "<s>2 + 2\n4"
    assert counted_text(blocks) == "4</s>"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, "Add.\n\n2 and 2"),
        ({"instruction": "Add.", "input": "", "output": "4"}, "Add."),
        ({"instruction": "Add.", "input": None, "output": "4"}, "Add."),
        ({"question": "how many?", "context": "2 and 2", "answer": "4"}, "2 and 2\n\nhow many?"),
    ],
)
def test_a_text_that_belongs_to_a_prompt_is_part_of_it(row, prompt):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    (block,) = as_blocks([row], tokenizer, CONFIG, length=64)
    assert tokenizer.decode(block["input_ids"]) == f"<s>{prompt}\n4"


def test_messages_may_be_arrays_and_the_first_row_may_hold_none():
    messages = [{"role": "user", "content": "hi?"}, {"role": "assistant", "content": "hello"}]
    expected = list(blocks_of([{"messages": messages}], length=64))
    assert list(blocks_of([{"messages": np.array(messages, dtype=object)}], length=64)) == expected
    with pytest.raises(TrimformerError, match="the conversation in row 1 is not a list of messages"):
        blocks_of([{"messages": []}, {"messages": messages}])


def test_blocks_without_a_counted_token_are_left_out():
    messages = [{"role": "user", "content": "long" * 20}, {"role": "assistant", "content": "x"}]
    blocks = blocks_of([{"messages": messages}])
    assert len(blocks) == 1
    assert counted_text(blocks) == "x</s>"


def test_encoded_rows_lose_padding_and_keep_their_labels():
    row = {"input_ids": [5, 6, 7, 8, 1], "attention_mask": [1, 1, 1, 1, 0], "labels": [-100, -100, 7, 8, -100]}
    (block,) = blocks_of([row])
    assert (block["input_ids"], block[NEXT_TOKENS]) == ([5, 6, 7], [-100, 7, 8])


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([" "], {}, "holds no text"),
        (["short"], {}, "less than a block of 16"),
        (["text"], {"length": 500}, "longer than the model takes; ask for 128 at most"),
        ([{"value": 3}], {}, "no text column found"),
        ([{"text": "a"}], {"columns": ["body"]}, "no column 'body'"),
        ([{"messages": [{"role": "user", "content": "hi"}]}], {}, "no answer"),
        ([{"messages": [{"role": "user"}]}], {}, "no 'role' and 'content'"),
        ([{"input_ids": [[1, 2]]}], {}, "not a list of token ids"),
        ([{"input_ids": [[1, 2], [3]]}], {}, "not a list of token ids"),
        ([{"text": "long enough for a block"}, {"txt": "a"}], {}, "no column 'text' in row 2"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], {}, "no column 'completion' in row 2"),
        ([{"input_ids": [1, 2, 3]}, {"text": "a"}], {}, "no column 'input_ids' in row 2"),
    ],
)
def test_bad_rows_are_refused_in_a_sentence(data, options, message):
    with pytest.raises(TrimformerError, match=message):
        blocks_of(data, **options)


def test_messages_need_a_chat_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(TrimformerError, match="no chat template"):
        as_blocks([{"messages": [{"role": "user", "content": "hi"}]}], tokenizer, CONFIG)


def test_a_text_file_is_one_document_with_its_blank_lines(tmp_path):
    text = "A title\n\nA first paragraph.\n  An indented line.\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("Another document of more bytes than a block.")
    blocks = as_blocks(read_splits(tmp_path / "a.txt")["all"], TOKENIZER, CONFIG, length=16)
    assert TOKENIZER.decode(blocks[0]["input_ids"]) == text[: len(blocks[0]["input_ids"])]
    folder = as_blocks(read_splits(tmp_path)["all"], TOKENIZER, CONFIG, length=16)
    joined = TOKENIZER.decode([token for block in folder for token in block["input_ids"]])
    assert joined == text + "</s>Another document of more bytes than a block."


def test_split_off_blocks_are_runs_of_consecutive_ones():
    blocks = blocks_of(["w" * 16 * 200])
    order = shuffled_rows(blocks, np.random.default_rng(0))
    assert sorted(order) == list(range(len(blocks)))
    jumps = sum(b != a + 1 for a, b in pairwise(order))
    assert jumps <= 20
    train, validation = find_splits({"all": blocks})
    assert len(train) + len(validation["validation"]) == len(blocks)


def test_jsonl_rows_are_documents(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": "document " * 5}) for _ in range(3)))
    blocks = as_blocks(read_splits(tmp_path / "rows.jsonl")["all"], TOKENIZER, CONFIG, length=20)
    assert sum(block["input_ids"].count(END) for block in blocks) == 2  # the last end token is only predicted


def test_only_the_first_characters_of_a_large_corpus_are_read(monkeypatch, caplog):
    monkeypatch.setattr("trimformer.data.language_blocks._MOST_CHARACTERS", 50)
    blocks = blocks_of(["a" * 30, "b" * 30, "c" * 30])
    assert TOKENIZER.decode([token for block in blocks for token in block["input_ids"]]) == "a" * 30 + "</s>" + "b" * 20
    assert "only the first 50 characters" in caplog.text


@pytest.mark.parametrize(("lengths", "warned"), [((40, 40, 40), True), ((40, 30, 40), False), ((40,), False)])
def test_rows_that_look_like_pieces_of_documents_are_told(lengths, warned, caplog):
    as_blocks([{"input_ids": [2 + i % 50 for i in range(n)]} for n in lengths], TOKENIZER, CONFIG, length=16)
    assert ("like pieces of longer documents" in caplog.text) == warned
