"""What is polished on: the calibration samples and more, without labels."""

import numpy as np
import pytest

from testing.language import byte_tokenizer, language_model
from tests.commands import PROBLEMS, problem_model, problem_rows, write_jsonl
from tests.conftest import make_tokenizer
from trimformer import METHODS, TrimformerError
from trimformer.data.batches import count_samples
from trimformer.data.block_options import BlockOptions
from trimformer.data.language_blocks import as_blocks
from trimformer.data.rows import as_rows
from trimformer.data.shared_passages import hold_passages
from trimformer.data.tasks import TASKS, LanguageTask, task_of
from trimformer.options.polish import PolishOptions
from trimformer.options.run import RunOptions
from trimformer.polish.data import draw_polish_inputs
from trimformer.polish.unlabelled_rows import encode_unlabelled, read_polish_data

LANGUAGE = LanguageTask(name="language", max_length=48)
LABELS = ("label", "ner_tags", "answers")


def unlabelled(rows):
    return [{key: value for key, value in row.items() if key not in LABELS} for row in rows]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_labels_are_not_looked_at(problem):
    model, rows = problem_model(problem), problem_rows(problem)
    task = task_of(model, rows)
    with_labels = encode_unlabelled(model, make_tokenizer(), task, rows)
    assert with_labels == encode_unlabelled(model, make_tokenizer(), task, unlabelled(rows))
    wrong = [{**row, **{key: "no label at all" for key in LABELS if key in row}} for row in rows]
    assert with_labels == encode_unlabelled(model, make_tokenizer(), task, wrong)
    assert [sample["input_ids"] for sample in with_labels] == [
        sample["input_ids"] for sample in task.encode(rows, make_tokenizer(), model.config)
    ]


def test_columns_may_have_other_names_and_be_cut_at_the_same_length():
    model, rows = problem_model("single_label"), problem_rows("single_label")
    task = task_of(model, rows, max_length=5)
    texts = [row["sentence"] for row in rows]
    assert encode_unlabelled(model, make_tokenizer(), task, texts) == encode_unlabelled(
        model, make_tokenizer(), task, rows
    )


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([("one text", "and another")], "'pair'.*'text'"),
        ([{"image": "cat.png"}], "image"),
        ([{"sentence": None}], "empty in row 1"),
        ([], "no rows"),
        ("one text", "polish_data is"),
    ],
)
def test_data_of_another_kind_are_told(data, match):
    model = problem_model("single_label")
    task = task_of(model, problem_rows("single_label"))
    with pytest.raises(TrimformerError, match=match) as error:
        encode_unlabelled(model, make_tokenizer(), task, data)
    assert str(error.value).startswith("polish data cannot be used: ")


@pytest.mark.parametrize("columns", [("query", "passage"), ("text",), ("sentence1", "sentence2")])
def test_texts_to_embed_come_in_any_columns(columns):
    model = problem_model("embedding")
    task = task_of(model, [{"text": "the film"}] if len(columns) == 2 else [{"query": "film", "passage": "the film"}])
    rows = [dict(zip(columns, ("a good film", "a bad plot"), strict=False)) for _ in range(3)]
    samples = encode_unlabelled(model, make_tokenizer(), task, rows)
    texts = {tuple(sample["input_ids"]) for sample in samples}
    assert texts == {tuple(make_tokenizer()(text)["input_ids"]) for text in rows[0].values()}


def test_a_known_task_takes_unlabelled_pairs():
    model = problem_model("single_label")
    rows = [{"sentence1": "a film", "sentence2": "the film"}] * 3
    assert len(encode_unlabelled(model, make_tokenizer(), TASKS["mrpc"], rows)) == 3


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("more", [0, 3, 60])
def test_an_eighth_is_held_out_and_never_trained_on(problem, more):
    model, rows = problem_model(problem), problem_rows(problem, 60)
    task = task_of(model, rows)
    features = task.encode(rows[:40], make_tokenizer(), model.config)
    data = (rows * 2)[40 : 40 + more] or None  # the calibration samples come again at its end
    given = draw_polish_inputs(model, make_tokenizer(), task, features, PolishOptions(data), batch_size=8)
    trained, held = (
        {
            str(ids[mask.bool()].tolist())
            for b in batches
            for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)
        }
        for batches in (given.batches, given.held_out)
    )
    everything = encode_unlabelled(model, make_tokenizer(), task, rows[: 40 + min(more, 20)])
    assert trained | held == {str(sample["input_ids"]) for sample in everything}
    assert not trained & held
    assert count_samples(given.batches) + count_samples(given.held_out) == len(trained | held)
    assert 0.05 < len(held) / len(trained | held) < 0.2
    assert not any("labels" in batch for batch in (*given.batches, *given.held_out))


@pytest.mark.parametrize(("more", "twice"), [(0, False), (40, False), (8, False), (60, False), (0, True)])
def test_a_held_out_sample_is_never_one_that_the_refit_fits(more, twice):
    model, rows = problem_model("single_label"), problem_rows("single_label", 200)
    task = task_of(model, rows)
    calibration = [*rows[:40], *(rows[3:30] if twice else [])]
    data = {0: None, 40: rows[:40], 8: [*rows[:40], *rows[40:48]], 60: rows[40:100]}[more]
    features = task.encode(calibration, make_tokenizer(), model.config)
    inputs = draw_polish_inputs(model, make_tokenizer(), task, features, PolishOptions(data), batch_size=8)
    held_out = {
        str(ids[mask.bool()].tolist())
        for b in inputs.held_out
        for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)
    }
    # With `holds_out_calibration` the model to polish is refitted without every eighth calibration sample.
    fitted = features if not inputs.holds_out_calibration else [s for i, s in enumerate(features) if i % 8]
    assert held_out
    assert not held_out & {str(sample["input_ids"]) for sample in fitted}
    assert inputs.holds_out_calibration == (more < 60)


def test_fewer_samples_than_a_batch_are_told():
    model, rows = problem_model("single_label"), problem_rows("single_label")
    task = task_of(model, rows)
    features = task.encode(rows[:30], make_tokenizer(), model.config)
    with pytest.raises(TrimformerError, match=r"different samples.*fewer than a batch of 32"):
        draw_polish_inputs(model, make_tokenizer(), task, features)


def test_a_file_or_a_folder_with_a_training_split_is_read(tmp_path):
    rows = problem_rows("single_label")
    assert read_polish_data(PolishOptions(write_jsonl(tmp_path / "more.jsonl", rows))).polish_data == rows
    write_jsonl(tmp_path / "folder" / "train.jsonl", rows)
    write_jsonl(tmp_path / "folder" / "validation.jsonl", rows[:2])
    assert read_polish_data(PolishOptions(tmp_path / "folder")).polish_data == rows
    with pytest.raises(TrimformerError, match="does not exist"):
        read_polish_data(PolishOptions(tmp_path / "nothing"))
    write_jsonl(tmp_path / "other" / "validation.jsonl", rows[:2])
    with pytest.raises(TrimformerError, match="no 'train' split"):
        read_polish_data(PolishOptions(tmp_path / "other"))


@pytest.mark.parametrize("method", ["obs", "kprune"])
@pytest.mark.parametrize(("data", "budget"), [(["a film"], "10x"), (None, "5x")])
def test_what_is_asked_of_a_polish_needs_one(method, data, budget):
    with pytest.raises(TrimformerError, match="obs-polish"):
        RunOptions(polish=PolishOptions(data, budget)).check([METHODS[method]], "mac")
    RunOptions(polish=PolishOptions(data, budget)).check([METHODS["magnitude"], METHODS["obs-polish"]], "mac")


def test_samples_that_are_scored_or_judged_are_not_trained_on():
    model, rows = problem_model("single_label"), problem_rows("single_label", 200)
    task, tokenizer = task_of(model, rows), make_tokenizer()
    features = task.encode(rows, tokenizer, model.config)
    options = PolishOptions(polish_data=unlabelled(rows[40:]))
    inputs = draw_polish_inputs(model, tokenizer, task, features[:40], options, 8, features[100:])
    batches = [*inputs.batches, *inputs.held_out]
    used = {tuple(ids[mask.bool()].tolist()) for b in batches for ids, mask in zip(b["input_ids"], b["attention_mask"],
                                                                                  strict=True)}  # fmt: skip
    calibrated = {tuple(sample["input_ids"]) for sample in features[:40]}
    assert not (used - calibrated) & {tuple(sample["input_ids"]) for sample in features[100:]}
    assert {tuple(sample["input_ids"]) for sample in features[:40]} <= used


def test_polish_data_keep_their_own_answers_where_prompts_are_answered():
    model, tokenizer = language_model(), byte_tokenizer()
    task = LanguageTask(name="language", max_length=64)
    blocks = BlockOptions(length=64, generate="greedy", most_prompts=2)
    rows = [{"prompt": f"{i}", "response": "own"} for i in range(9)]
    samples = encode_unlabelled(model, tokenizer, task, rows, blocks)
    assert all("own" in tokenizer.decode(sample["input_ids"]) for sample in samples)
    texts = encode_unlabelled(model, tokenizer, task, ["a document of some length, with more words"] * 9, blocks)
    assert len(texts) > 2
    prompts = encode_unlabelled(model, tokenizer, task, [{"prompt": f"{i}"} for i in range(9)], blocks)
    assert len(prompts) == 9  # all of them


def letters(seed):
    """Returns 40 texts of random letters."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("abcdefgh "), 150)) for _ in range(40)]


def language_samples(texts):
    """Returns the encoded blocks of texts."""
    blocks = as_blocks(as_rows(texts), byte_tokenizer(), language_model().config, length=48)
    return LANGUAGE.encode(blocks, byte_tokenizer(), language_model().config)


def language_inputs(calibration, texts, left_out=()):
    """Returns the tokens of all blocks to polish on, and of the held-out ones."""
    options, blocks = PolishOptions(polish_data=texts), BlockOptions(length=48)
    features = language_samples(calibration)
    inputs = draw_polish_inputs(language_model(), byte_tokenizer(), LANGUAGE, features, options, 4, left_out, blocks)
    parts = (inputs.batches, inputs.held_out)
    return [[{"next_tokens": tokens.tolist()} for b in part for tokens in b["next_tokens"]] for part in parts]


def test_blocks_with_passages_that_are_scored_are_not_trained_on_wherever_they_are_cut():
    texts = letters(0)
    scored = language_samples(texts[30:])
    trained, held_out = language_inputs(texts[:5], ["another beginning", *texts[5:]], scored)
    assert not any(hold_passages([*trained, *held_out], scored))
    assert len(trained) + len(held_out) > 90  # of the 30 other texts


def test_further_blocks_are_held_out_by_document():
    texts = letters(1)
    trained, held_out = language_inputs(texts[:5], texts)

    def documents(blocks):
        written = [
            byte_tokenizer().decode([token for token in block["next_tokens"] if token != -100]) for block in blocks
        ]
        parts = [{text[k : k + 10] for k in range(140)} for text in texts]
        pieces = [{text[k : k + 10] for k in range(len(text))} for text in written]
        return {i for i, part in enumerate(parts) if any(part & piece for piece in pieces)}

    assert 2 <= len(documents(held_out)) <= 12
    assert not documents(trained) & documents(held_out)
    assert len(held_out) == pytest.approx((len(trained) + len(held_out)) / 8, abs=8)
