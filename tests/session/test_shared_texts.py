"""Rows that share a text are never both calibrated on and judged or scored."""

import json
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testing.language import byte_tokenizer, language_model
from tests.commands import prune, write_jsonl
from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import TrimformerError
from trimformer import prune as pruned
from trimformer.cli.task_data import load_task_data
from trimformer.data.language_blocks import as_blocks
from trimformer.data.rows import DOCUMENT, DOCUMENT_SPAN, as_rows
from trimformer.data.shared_passages import hold_passages
from trimformer.data.splits import divide, separate_documents
from trimformer.data.tasks.text import TextTask
from trimformer.evaluation.clusters import row_clusters, row_inputs
from trimformer.options.data import DataOptions
from trimformer.options.quality_target import QualityTarget
from trimformer.session.draw_samples import draw_samples
from trimformer.session.inputs import Inputs
from trimformer.session.judged_rows import divide_documents
from trimformer.session.scored_rows import describe_copies

TEXTS = [f"{row['sentence']} {i}" for i, row in enumerate(make_rows(600, seed=5))]
TARGET = QualityTarget("divergence", 1.0)
TASK = TextTask(name="text", text_columns=("sentence",), problem="single_label")


@given(st.data(), st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_a_division_splits_no_cluster_and_holds_every_row_once(data, clusters):
    order = data.draw(st.permutations(range(len(clusters))))
    cut = data.draw(st.integers(1, len(clusters) - 1))
    first, second = divide(order, cut, clusters)
    assert sorted(first + second) == list(range(len(clusters)))
    sizes = Counter(clusters)
    if len(sizes) == 1:
        assert len(first) == cut
        return
    chosen = {clusters[i] for i in first}
    assert not chosen & {clusters[i] for i in second}
    assert second
    # As many as fit: none that is left out would fit, too. Where that is less than half, one cluster more.
    smallest = min(size for cluster, size in sizes.items() if cluster not in chosen)
    assert len(first) <= cut < len(first) + smallest or any(2 * (len(first) - sizes[c]) < cut for c in chosen)
    assert 2 * len(first) >= cut or len(set(clusters) - chosen) == 1


@given(st.permutations(range(12)), st.integers(1, 11))
def test_rows_of_different_texts_are_divided_in_their_order(order, cut):
    assert divide(order, cut, range(12)) == (order[:cut], order[cut:])


def test_a_text_with_a_third_of_the_rows_does_not_empty_the_held_out_part():
    clusters = [0] * 300 + list(range(1, 701))
    order = np.random.default_rng(0).permutation(1000).tolist()
    first, _ = divide(order, 200, clusters)
    assert len(first) == 200
    assert 0 not in {clusters[i] for i in first}


def drawn(model, tokenizer, rows, target=TARGET, **inputs):
    options = DataOptions(num_samples=150)
    return draw_samples(Inputs(model, tokenizer, rows, **inputs), model, tokenizer, options, 0, target)


def assert_apart(samples):
    parts = [samples.calibration.rows, samples.judged_scorer.rows, *(scorer.rows for scorer in samples.scored.scorers)]
    texts = [{str(row.get("sentence") or row.get("input_ids")) for row in rows} for rows in parts]
    assert all(texts)
    for first, second in combinations(texts, 2):
        assert not first & second


def test_rows_set_aside_share_no_text_with_each_other_nor_with_the_calibration():
    rows = [{"sentence": TEXTS[i % 500]} for i in range(1500)]
    assert_apart(drawn(make_model(num_labels=2), make_tokenizer(), rows))


def test_copies_of_a_conversation_are_not_judged_where_they_are_calibrated_on():
    rows = [{"prompt": f"{i % 250} and", "completion": TEXTS[i % 250]} for i in range(750)]
    samples = drawn(language_model(), byte_tokenizer(), rows)
    assert_apart(samples)
    assert samples.judged_scorer.num_independent < len(samples.judged_scorer.rows)


@pytest.mark.parametrize(("documents", "is_apart"), [(90, True), (9, False)])
def test_blocks_of_one_document_are_judged_together_unless_documents_are_few(documents, is_apart):
    letters = np.random.default_rng(0).choice(list("abcdef "), size=(documents, 100_000 // documents))
    samples = drawn(language_model(), byte_tokenizer(), [{"text": "".join(text)} for text in letters])
    judged, calibrated = (
        {row[DOCUMENT] for row in part} for part in (samples.judged_scorer.rows, samples.calibration.rows)
    )
    assert is_apart == (not judged & calibrated)
    assert samples.judged_scorer.num_independent == (len(judged) if is_apart else len(samples.judged_scorer.rows))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=400), st.integers(2, 200))
def test_judged_documents_give_no_block_to_the_calibration(documents, most):
    judged, kept = divide_documents(range(len(documents)), most, documents)
    assert len(judged) <= most
    assert not {documents[i] for i in judged} & {documents[i] for i in kept}
    assert len({*judged, *kept}) == len(judged) + len(kept)
    assert sum(documents.count(document) for document in {documents[i] for i in judged}) <= len(documents) // 2
    assert {documents[i] for i in [*judged, *kept]} == set(documents)


def test_of_long_documents_many_are_judged():
    letters = np.random.default_rng(0).choice(list("abcdef "), size=(200, 3000))
    samples = drawn(language_model(), byte_tokenizer(), [{"text": "".join(text)} for text in letters])
    assert 30 <= samples.judged_scorer.num_independent <= len(samples.judged_scorer.rows) / 5


def test_few_conversations_in_many_copies_promise_nothing():
    rows = [{"prompt": f"{i % 3}", "completion": TEXTS[i % 3]} for i in range(450)]
    with pytest.raises(TrimformerError, match="those that share a text counted once, are too few to promise"):
        drawn(language_model(), byte_tokenizer(), rows)


def test_rows_that_are_judged_are_not_calibrated_on():
    rows = [{"sentence": text} for text in TEXTS[:400]]
    model, tokenizer = make_model(num_labels=2), make_tokenizer()
    others = [{"sentence": text} for text in TEXTS[400:500]]
    assert_apart(drawn(model, tokenizer, rows, eval_dataset=others, judge_dataset=rows[100:260]))
    with pytest.raises(TrimformerError, match="every row to calibrate on holds text of the test rows"):
        drawn(model, tokenizer, rows[:200], eval_dataset=rows[200:], judge_dataset=rows)


@pytest.mark.parametrize(("shared", "warned"), [(0, False), (4, False), (30, True)])
def test_scored_rows_that_are_calibrated_on_are_warned_of(shared, warned):
    rows = [{"sentence": text} for text in TEXTS[:250]]
    scored = [*rows[:shared], *({"sentence": text} for text in TEXTS[300 + shared : 400])]
    warnings = describe_copies(rows, {"validation": scored}, TASK)
    line = (
        "30 of 100 rows to score on hold text that is calibrated on, so their scores may be too high; give other rows"
    )
    assert warnings == ([line] if warned else [])


def test_rows_that_share_a_passage_are_no_copies():
    task = TextTask(name="pair", text_columns=("query", "passage"), problem="single_label")
    rows = [{"query": f"what of {i}", "passage": TEXTS[i % 5]} for i in range(60)]
    assert row_clusters(rows, task) == [i % 5 for i in range(60)]
    assert describe_copies(rows[:40], {"validation": rows[40:]}, task) == []
    assert len(set(row_inputs(rows, task))) == 60


def test_the_command_line_divides_rows_alike(tmp_path, model_dir):
    rows = [{"sentence": TEXTS[i % 40], "label": i % 2} for i in range(200)]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    assert prune(model_dir, data, tmp_path / "out") == 0
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    assert figures["samples"]["scored_on"] == "40 rows set aside from 'train.jsonl'"
    warnings = figures["coverage"]["warnings"]
    assert any("if the model was trained on these rows" in line for line in warnings)
    assert not any("hold text that is calibrated on" in line for line in warnings)


def test_the_commands_rows_to_score_on_are_those_of_the_session(tmp_path):
    """ONNX files are scored on the former, the models on the latter."""
    rows = [{"sentence": text, "label": k % 2} for k, text in enumerate(TEXTS[:60])] * 3
    model, tokenizer = make_model(num_labels=2), make_tokenizer()
    options = DataOptions(data=str(write_jsonl(tmp_path / "rows.jsonl", rows)), num_samples=40, batch_size=8)
    task, train, validation = load_task_data(options, model, tokenizer)
    samples = draw_samples(Inputs(model, tokenizer, train, validation, None, task), model, tokenizer, options, 0, None)
    (scored,) = validation.values()
    assert [dict(row) for row in samples.scored.scorers[0].rows] == [dict(row) for row in scored]
    assert not {row["sentence"] for row in scored} & {row["sentence"] for row in train}


def test_judged_rows_choose_no_tokens():
    judged = [{"sentence": text} for text in TEXTS if {"hate", "love"} & {*text.split()}]
    rows = [{"sentence": text} for text in TEXTS if not {"hate", "love"} & {*text.split()}]
    result = pruned(make_model(num_labels=2), make_tokenizer(), rows, judge_dataset=judged, max_divergence=50.0,
                    vocabulary="used", num_samples=100, device="cpu")  # fmt: skip
    tokens = result.processor.get_vocab()
    assert "film" in tokens
    assert not {"hate", "love"} & tokens.keys()


def test_rows_that_judge_and_are_scored_too_are_told():
    rows = [{"sentence": text} for text in TEXTS]
    options = {"max_divergence": 50.0, "num_samples": 100, "device": "cpu"}
    for scored, is_told in ((rows[-40:], True), ([{"sentence": f"{text} film"} for text in TEXTS[-40:]], False)):
        result = pruned(make_model(num_labels=2), make_tokenizer(), rows[:200], judge_dataset=rows[200:],
                        eval_dataset=scored, **options)  # fmt: skip
        told = [line for line in result.coverage.warnings if "quality target is tested on" in line]
        assert len(told) == is_told
        assert all(line.startswith("40 of 40 rows") for line in told)


def language_blocks(texts, length=48):
    return as_blocks(as_rows(texts), byte_tokenizer(), language_model().config, length=length)


def test_blocks_of_the_same_documents_are_found_wherever_they_are_cut():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh "), 150)) for _ in range(30)]
    train = language_blocks(texts[:20])
    shared = hold_passages(train, language_blocks(["another beginning", *texts[10:]]))
    assert sum(shared) == pytest.approx(len(train) / 2, abs=2)
    assert shared == sorted(shared)
    assert not any(hold_passages(language_blocks(texts[:10]), language_blocks(texts[10:])))


def test_conversations_that_begin_alike_are_no_copies():
    prompt = {"role": "system", "content": "Follow these rules, all of them, at any time, in any place."}
    chats = [
        {"messages": [prompt, {"role": "user", "content": "?"}, {"role": "assistant", "content": f"{i}!" * 20}]}
        for i in range(20)
    ]
    assert not any(hold_passages(language_blocks(chats[:10], 128), language_blocks(chats[10:], 128)))


def test_documents_that_are_judged_are_not_calibrated_on(caplog):
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("abcdefgh "), 150)) for _ in range(160)]
    options = DataOptions(num_samples=20, max_length=48)
    inputs = Inputs(language_model(), byte_tokenizer(), texts, judge_dataset=["a preface", *texts[40:]])
    samples = draw_samples(inputs, inputs.model, inputs.processor, options, 0, TARGET)
    assert not any(hold_passages(samples.calibration.rows, samples.judged_scorer.rows))
    same = Inputs(language_model(), byte_tokenizer(), texts, judge_dataset=["a preface", *texts])
    with pytest.raises(TrimformerError, match="holds text of the test rows"):
        draw_samples(same, inputs.model, inputs.processor, options, 0, TARGET)
    scored = Inputs(language_model(), byte_tokenizer(), texts[:80], eval_dataset=["a preface", *texts[:30]])
    everything = DataOptions(num_samples=500, max_length=48)
    samples = draw_samples(scored, inputs.model, inputs.processor, everything, 0, None)
    assert any("rows to score on hold text that is calibrated on" in line for line in samples.scored.warnings)


def test_a_form_in_every_document_makes_no_copies():
    rng = np.random.default_rng(2)
    form = "Licensed under the terms of the file LICENSE; all rights reserved. "
    texts = [form + "".join(rng.choice(list("abcdefgh "), 60)) for _ in range(60)]
    assert not any(hold_passages(language_blocks(texts[:30], 128), language_blocks(texts[30:], 128)))


@pytest.mark.parametrize(("length", "repeats", "warned"), [(30_000, 2, False), (3_000, 20, True)])
def test_data_that_repeat_themselves_are_judged_with_a_warning(length, repeats, warned, caplog):
    caplog.set_level("INFO")
    text = "".join(np.random.default_rng(3).choice(list("abcdefgh "), length)) * repeats
    options = DataOptions(num_samples=60, max_length=96)
    inputs = Inputs(language_model(), byte_tokenizer(), [text, "and another text"])
    samples = draw_samples(inputs, inputs.model, inputs.processor, options, 0, TARGET)
    assert any("as the data repeat themselves" in line for line in samples.scored.warnings) == warned
    assert ("hold text of the test rows and are not calibrated on" in caplog.text) != warned
    assert any(hold_passages(samples.calibration.rows, samples.judged_scorer.rows)) == warned


def test_many_blocks_are_compared_at_once():
    rng = np.random.default_rng(4)
    blocks = [{"next_tokens": rng.integers(0, 50_000, 512).tolist()} for _ in range(600)]
    assert sum(hold_passages(blocks, blocks[:300])) == 300


@pytest.mark.parametrize("length", [41, 150, 600])
def test_a_document_that_an_edge_cuts_is_not_on_both_sides(length):
    rng = np.random.default_rng(length)
    texts = ["".join(rng.choice(list("abcdefgh "), length)) for _ in range(max(120, 24_000 // length))]
    inputs = Inputs(language_model(), byte_tokenizer(), texts)
    options = DataOptions(num_samples=64, max_length=48)
    samples = draw_samples(inputs, inputs.model, inputs.processor, options, 0, TARGET)

    def documents(blocks):
        spans = [block[DOCUMENT_SPAN] for block in blocks]
        return {number for first, _, last in spans for number in range(first, last + 1)}

    judged = documents(samples.judged_scorer.rows)
    assert len(judged) >= 30
    assert not judged & documents(samples.sets[0])
    written = "".join(byte_tokenizer().decode(block["input_ids"]) for block in samples.judged_scorer.rows)
    assert all(any(texts[i][k : k + 4] in written for k in range(length - 4)) for i in judged)


@given(st.lists(st.integers(1, 4), min_size=3, max_size=40), st.data())
def test_parts_of_blocks_share_no_document_or_stay_as_they_are(sizes, data):
    starts = np.cumsum([0, *sizes])
    blocks = [{DOCUMENT_SPAN: (max(0, int(a) - 1), int(a), int(b) - 1)} for a, b in pairwise(starts)]
    first = data.draw(st.lists(st.sampled_from(range(len(blocks))), unique=True, min_size=1))
    second = [i for i in range(len(blocks)) if i not in first]
    parts = separate_documents(first, second, blocks)
    assert all(set(part) <= set(given) for part, given in zip(parts, (first, second), strict=True))
    held = [
        {n for i in part for n in range(blocks[i][DOCUMENT_SPAN][0], blocks[i][DOCUMENT_SPAN][2] + 1)} for part in parts
    ]
    assert not held[0] & held[1] or parts == (first, second)
    assert all(2 * len(part) >= len(given) for part, given in zip(parts, (first, second), strict=True))


@pytest.mark.parametrize("columns", [["prompt", "response"], ["text"]])
def test_columns_to_score_language_models_on_are_no_sets(columns):
    table = {name: [f"{name} {i} of some length, for a block" for i in range(20)] for name in columns}
    inputs = Inputs(language_model(), byte_tokenizer(), table, eval_dataset=table)
    samples = draw_samples(inputs, inputs.model, inputs.processor, DataOptions(num_samples=8, max_length=48), 0, None)
    assert [scorer.name for scorer in samples.scored.scorers] == ["validation"]
