"""Prompts, answers and conversations in the notations of common data sets."""

import json

import datasets
import pytest

from testing.language import byte_tokenizer, language_model
from tests.export.gguf.tokenizers import KINDS, wrapped
from trimformer.data.block_options import BlockOptions
from trimformer.data.conversations import PromptColumns, encode_pieces, find_pair
from trimformer.data.language_blocks import as_blocks, model_rows
from trimformer.data.rows import as_rows
from trimformer.data.splits import read_splits
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import NEXT_TOKENS

TOKENIZER, MODEL = byte_tokenizer(), language_model()
HI, YO = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}


def read(*rows):
    """The text of all blocks, and what counts of it."""
    blocks = as_blocks(as_rows(list(rows)), TOKENIZER, MODEL.config, length=120)
    ids = [token for block in blocks for token in [*block["input_ids"], block[NEXT_TOKENS][-1]]]
    counted = [token for block in blocks for token in block[NEXT_TOKENS] if token != -100]
    return TOKENIZER.decode(ids), TOKENIZER.decode(counted)


@pytest.mark.parametrize(
    ("row", "text", "counted"),
    [
        ({"system_prompt": "Be terse.", "question": "why?", "response": "so"},
         "<s>system: Be terse.</s><s>user: why?</s><s>assistant: so</s>", "so</s>"),  # OpenOrca
        ({"query": "2 + 2?", "response": "4", "type": "sum"}, "<s>user: 2 + 2?</s><s>assistant: 4</s>", "4</s>"),
        ({"prompt": "hi", "chosen": "yo", "rejected": "no"}, "<s>user: hi</s><s>assistant: yo</s>", "yo</s>"),
        ({"prompt": [HI], "completion": [YO]}, "<s>user: hi</s><s>assistant: yo</s>", "yo</s>"),
        ({"prompt": "hi", "chosen": [HI, YO], "rejected": [HI]}, "<s>user: hi</s><s>assistant: yo</s>", "yo</s>"),
        ({"system": "A", "messages": [HI, YO]}, "<s>system: A</s><s>user: hi</s><s>assistant: yo</s>", "yo</s>"),
        ({"system": "A", "messages": [{"role": "system", "content": "B"}, HI, YO]},
         "<s>system: B</s><s>user: hi</s><s>assistant: yo</s>", "yo</s>"),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "chatgpt", "value": "yo"}]},
         "<s>user: hi</s><s>assistant: yo</s>", "yo</s>"),
        ({"messages": [HI, {**YO, "weight": 0}, HI, YO]},
         "<s>user: hi</s><s>assistant: yo</s><s>user: hi</s><s>assistant: yo</s>", "yo</s>"),
    ],
)  # fmt: skip
def test_rows_of_common_data_sets_are_read_whole(row, text, counted):
    assert read(row) == (text, counted)


def test_what_is_not_read_is_named(caplog):
    caplog.set_level("INFO")
    read({"question": "2 + 2?", "choices": ["3", "4"], "answer": 1})
    assert "question, answer are read; not choices" in caplog.text
    as_blocks([{"text": "x" * 40, "title": "A"}], TOKENIZER, MODEL.config, length=8)
    assert "the texts of column 'text'; not read: title" in caplog.text


def test_conversations_without_an_answer_are_counted(caplog):
    read({"messages": [HI, YO]}, {"messages": [HI]})
    assert "1 of 2 conversations hold no answer that counts" in caplog.text


@pytest.mark.parametrize("tools", [[{"name": "weather"}], json.dumps([{"name": "weather"}])])
def test_tools_reach_the_template(tools):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for tool in tools or [] %}[{{ tool.name }}]{% endfor %}" + tokenizer.chat_template
    (block,) = as_blocks([{"messages": [HI, YO], "tools": tools}], tokenizer, MODEL.config, length=120)
    assert tokenizer.decode(block["input_ids"]).startswith("[weather]<s>user: hi")
    with pytest.raises(TrimformerError, match="'tools' in row 2 holds no list of tools"):
        as_blocks([{"messages": [HI, YO], "tools": t} for t in (tools, "{")], tokenizer, MODEL.config, length=120)
    (block,) = model_rows(
        MODEL, tokenizer, [{"messages": [HI], "tools": tools}], BlockOptions(length=100, generate="greedy")
    )
    assert tokenizer.decode(block["input_ids"]).startswith("[weather]<s>user: hi</s><s>assistant: ")


def test_a_conversation_has_the_tokens_of_its_text():
    tokenizer = wrapped(KINDS["llama"]())  # puts a space before every text
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}" + (
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    messages = [HI, {"role": "assistant", "content": "the capital"}, HI, {"role": "assistant", "content": "small"}]
    (block,) = as_blocks([{"messages": messages}], tokenizer, MODEL.config, length=120)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [*block["input_ids"], block[NEXT_TOKENS][-1]] == whole[: len(block["input_ids"]) + 1]
    answers = tokenizer.decode([token for token in block[NEXT_TOKENS] if token != -100])
    assert answers.replace(" ", "").replace("\n", "") == "thecapital</s>small</s>"


def test_what_the_template_puts_behind_the_end_of_an_answer_does_not_count():
    tokenizer = templated("{% for m in messages %}<s>{{ m.content }}</s>\n{% endfor %}"
                          "{% if add_generation_prompt %}<s>{% endif %}")  # fmt: skip
    assert counted_in(tokenizer, HI, YO, HI, {**YO, "content": "ya\n"}) == "yo</s>ya\n</s>"


def test_a_token_across_two_pieces_counts_by_its_last_character():
    tokenizer = wrapped(KINDS["gpt-2"]())
    text = "the cat sat"
    for cut in range(len(text) + 1):
        ids, counts = encode_pieces([(text[:cut], False), (text[cut:], True)], tokenizer)
        assert ids == tokenizer(text)["input_ids"]
        ends = [end for _, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
        assert counts == [end > cut for end in ends]


@pytest.mark.parametrize("value", ["calculator", 3, [], "[]", '{"name": "f"}'])
def test_a_column_of_tools_that_describes_none_is_named_and_left_out(value, caplog):
    assert read({"messages": [HI, YO], "tools": value})[1] == "yo</s>"
    assert "'tools' holds no descriptions of tools" in caplog.text


def test_only_named_columns_are_read(caplog):
    caplog.set_level("INFO")
    row = {"system": "A", "question": "why?", "context": "B", "answer": "so"}
    blocks = as_blocks([row], TOKENIZER, MODEL.config, length=120, columns=["question", "answer"])
    assert TOKENIZER.decode(blocks[0]["input_ids"]) == "<s>user: why?</s><s>assistant: so"
    assert "question, answer are read; not system, context" in caplog.text


def test_usual_names_make_a_pair():
    assert find_pair(["instruction", "input", "output", "prompt"]) == ("instruction", "output")  # the prompt holds all
    assert find_pair(["problem", "answer", "solution"]) == ("problem", "solution")
    assert find_pair(["input", "chosen"]) == ("input", "chosen")
    assert find_pair(["Question", "id", "Answer"]) == ("Question", "Answer")
    assert find_pair(["instruction", "input", "output"]) == ("instruction", "output")
    assert find_pair(["text", "label"]) is None
    assert PromptColumns.find([{"question": "a", "context": "b", "answer": "c"}], "question", "answer").context


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Add.", "input": "2, 2"}, "<s>user: Add.\n\n2, 2</s><s>assistant: "),
        ({"instruction": "Add.", "input": ""}, "<s>user: Add.</s><s>assistant: "),
        ({"question": "how many?", "context": "2 and 2"}, "<s>user: 2 and 2\n\nhow many?</s><s>assistant: "),
        ({"system": "A", "prompt": "hi"}, "<s>system: A</s><s>user: hi</s><s>assistant: "),
        ({"messages": [HI, YO]}, "<s>user: hi</s><s>assistant: "),
    ],
)
def test_the_dense_model_is_asked_the_whole_prompt(row, prompt):
    (block,) = model_rows(MODEL, TOKENIZER, [row], BlockOptions(length=100, generate="greedy"))
    assert TOKENIZER.decode(block["input_ids"]).startswith(prompt)
    assert block[NEXT_TOKENS].count(-100) == len(TOKENIZER(prompt)["input_ids"]) - 1


def test_long_prompts_are_counted(caplog):
    rows = [{"prompt": "hi"}, {"prompt": "x" * 200}]
    assert len(model_rows(MODEL, TOKENIZER, rows, BlockOptions(length=60, generate="greedy"))) == 1
    assert "1 of 2 prompts are empty or leave no room" in caplog.text


def test_greedy_is_greedy_whatever_the_generation_config_says():
    rows, options = [{"prompt": "hi"}], BlockOptions(length=100, generate="greedy")
    expected = list(model_rows(MODEL, TOKENIZER, rows, options))
    model = language_model()
    own = model.generation_config
    own.repetition_penalty, own.num_beams, own.max_time, own.return_dict_in_generate = 3.0, 2, 1e-6, True
    assert list(model_rows(model, TOKENIZER, rows, options)) == expected
    assert model.generation_config is own


def test_a_file_of_one_conversation_is_read(tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": [HI, YO]}))
    assert list(read_splits(file)["all"]) == [{"messages": [HI, YO]}]


@pytest.mark.parametrize("name", ["assistant_masks", "completion_mask"])
def test_masks_of_encoded_rows_say_what_counts(name):
    (block,) = as_blocks([{"input_ids": [5, 6, 7, 8], name: [0, 0, 1, 1]}], TOKENIZER, MODEL.config)
    assert (block["input_ids"], block[NEXT_TOKENS]) == ([5, 6, 7], [-100, 7, 8])


def test_labels_of_other_tokens_are_refused():
    for labels in ([6, 7, 8, -100], [9, 9, 9, 9]):
        with pytest.raises(TrimformerError, match="'labels' of row 1 differ from its 'input_ids'"):
            as_blocks([{"input_ids": [5, 6, 7, 8], "labels": labels}], TOKENIZER, MODEL.config)


def test_every_block_begins_with_the_start_token_which_never_counts():
    tokenizer = wrapped(KINDS["llama"]())
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer("ab")["input_ids"][0] == start != end
    blocks = as_blocks(as_rows(["the cat"] * 6), tokenizer, MODEL.config, length=10)
    counted = [token for block in blocks for token in block[NEXT_TOKENS] if token != -100]
    assert counted == [*tokenizer("the cat")["input_ids"][1:], end] * 6
    assert len(blocks) > 1
    assert all(block["input_ids"][0] == start and len(block["input_ids"]) <= 10 for block in blocks)
    tokenizer.chat_template = "<s>{% for m in messages %}{{ m.content }}{% endfor %}"
    messages = [{**HI, "content": "the cat"}, {**YO, "content": "the cat sat on the mat " * 3}]
    blocks = as_blocks([{"messages": messages}], tokenizer, MODEL.config, length=10)
    assert len(blocks) > 1
    assert all(block["input_ids"][0] == start for block in blocks)
    blocks = as_blocks([{"input_ids": [start, *range(10, 50)]}], tokenizer, MODEL.config, length=10)
    assert [block["input_ids"][0] for block in blocks] == [start] * 5
    (whole,) = as_blocks([{"input_ids": [start, *range(10, 20)]}], tokenizer, MODEL.config, length=10)
    assert len(whole["input_ids"]) == 10


def templated(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def counted_in(tokenizer, *messages):
    blocks = as_blocks([{"messages": list(messages)}], tokenizer, MODEL.config, length=120)
    return tokenizer.decode([token for block in blocks for token in block[NEXT_TOKENS] if token != -100])


# It writes an empty thought before the last answer only, as that of Qwen 3 does.
THOUGHTFUL = (
    "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}"
    "{{ m.content }};{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_only_the_last_answer_counts_where_the_template_changes_earlier_messages(caplog):
    tokenizer = templated(THOUGHTFUL)
    assert counted_in(tokenizer, HI, YO, HI, {**YO, "content": "ya"}) == "<think></think>ya;"
    assert "in 1 of 1 conversations (the first: row 1) only the last answer counts" in caplog.text
    caplog.clear()
    assert counted_in(tokenizer, HI, YO) == "<think></think>yo;"
    assert "only the last answer" not in caplog.text


def test_an_answer_that_nothing_asks_for_does_not_count():
    assert counted_in(TOKENIZER, YO, HI, {**YO, "content": "ya"}) == "ya</s>"


CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "weather"}}]}


@pytest.mark.parametrize(
    "messages",
    [
        [HI, {**YO, "content": "<think>two and two</think>yo"}],
        [{"role": "system", "content": "Be a pirate."}, HI, YO],
        [HI, CALL, {"role": "tool", "content": "RAIN"}, YO],
        [HI, {**YO, "reasoning_content": "two and two"}],
    ],
)
def test_what_the_chat_template_leaves_out_is_said(messages, caplog):
    template = (
        "{% for m in messages if m.role in ('user', 'assistant') %}<{{ m.role }}>"
        "{{ m.content.split('</think>')[-1] }};{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert counted_in(templated(template), *messages).endswith("yo;")
    assert "leaves out or changes texts, tools or thoughts of 1 of 1 conversations" in caplog.text


def test_texts_in_parts_are_joined_and_other_parts_refused():
    parts = [{"type": "text", "text": "y"}, {"type": "text", "text": "o"}]
    assert counted_in(TOKENIZER, HI, {**YO, "content": parts}) == "yo</s>"
    with pytest.raises(TrimformerError, match="row 1 has parts that are no texts"):
        counted_in(TOKENIZER, {**HI, "content": [{"type": "image"}]}, YO)


def test_messages_in_json_are_read_as_messages(tmp_path):
    (tmp_path / "chats.csv").write_text('messages\n"' + json.dumps([HI, YO]).replace('"', '""') + '"\n')
    (rows,) = read_splits(tmp_path / "chats.csv").values()
    assert read(*rows) == read({"messages": [HI, YO]})


def test_answers_and_texts_in_json_stay_texts():
    answer = '[{"name": "Bob"}]'
    assert counted_in_rows({"prompt": "names?", "completion": answer}) == answer + "</s>"
    assert len(as_blocks([{"doc": answer * 3}], TOKENIZER, MODEL.config, columns=["doc"], length=16)) > 1


def counted_in_rows(*rows):
    return read(*rows)[1]


def test_no_tools_in_json_are_none():
    assert counted_in_rows(
        {"messages": [HI, YO], "tools": "[]"}, {"messages": [HI, YO], "tools": '[{"name": "f"}]'}
    ) == ("yo</s>yo</s>")


def test_texts_that_a_template_writes_as_json_are_not_left_out(caplog):
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content | tojson if m.role == 'tool' else m.content }};{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    counted_in(templated(template), HI, {"role": "tool", "content": 'it said "rain"'}, YO)
    assert "leaves out" not in caplog.text


def test_nulls_that_arrow_adds_to_tools_are_not_read():
    calls = [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
             for arguments in ({"a": "A"}, {"b": "B"})]  # fmt: skip
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %};{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    rows = [{"messages": [HI, call]} for call in calls]
    plain, arrow = (
        [block["input_ids"] for block in as_blocks(as_rows(data), templated(template), MODEL.config, length=120)]
        for data in (rows, datasets.Dataset.from_list(rows))
    )
    assert plain == arrow


def test_prompts_that_are_read_as_documents_are_warned_of(caplog):
    as_blocks([{"prompt": "what is this? " * 4}], TOKENIZER, MODEL.config, length=8)
    assert "column 'prompt' holds prompts without answers, which count as documents" in caplog.text


def test_a_first_row_without_its_answer_does_not_make_documents_of_prompts():
    with pytest.raises(TrimformerError, match="completion"):
        read({"prompt": "hi"}, {"prompt": "hi", "completion": "yo"})


def test_conversations_are_drawn_where_there_are_very_many(caplog):
    caplog.set_level("INFO")
    rows = [{"messages": [HI, {**YO, "content": f"yo {n}"}]} for n in range(9)]
    blocks = model_rows(MODEL, TOKENIZER, rows, BlockOptions(length=100, most_rows=4))
    assert len(blocks) == 4
    assert "4 of 9 conversations are read, drawn at random" in caplog.text


def test_a_set_with_answers_keeps_them_where_the_model_answers_prompts(caplog):
    caplog.set_level("INFO")
    options = BlockOptions(length=64, generate="greedy")
    assert options.keeping_answers([{"prompt": "hi"}], "eval_dataset") == options
    for row in ({"text": "a prompt"}, {"prompt": "hi", "completion": None}, {"messages": [HI]}):
        assert options.keeping_answers([row], "eval_dataset") == options
    assert "answers that it holds" not in caplog.text
    for row in ({"prompt": "hi", "completion": "yo"}, {"messages": [HI, YO]}):
        assert options.keeping_answers([row], "eval_dataset").generate is None
    assert "eval_dataset is used with the answers that it holds" in caplog.text
