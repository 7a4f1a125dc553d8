"""SQuAD windows, the search for the best span, and the metrics."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.conftest import WORDS, make_model, make_tokenizer, without_intervals
from trimformer.data.batches import make_batches
from trimformer.data.outputs import predict
from trimformer.data.tasks import SpanTask, find_task, infer_task
from trimformer.data.tasks.squad_metrics import squad_exact, squad_f1
from trimformer.errors import TrimformerError
from trimformer.evaluation.model_outputs import unbatch

CONFIG = make_model(head="ForQuestionAnswering", num_labels=2).config
CONTEXT = "the film is a good old story we love it"
SMALL = SpanTask(name="small", max_length=12, stride=2)  # with a question of two words: windows of seven words


def roberta_like() -> PreTrainedTokenizerFast:
    """A tokenizer with two separators between question and context, and no token types."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 0), ("[SEP]", 2)],
    )
    return tokenizer


def bert_like() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


TOKENIZERS = pytest.mark.parametrize("make", [make_tokenizer, bert_like, roberta_like])


def row(answer: str | None = None, context: str = CONTEXT, question: str = "what film") -> dict[str, Any]:
    texts = [] if answer is None else [answer]
    starts = [context.index(text) for text in texts]
    return {"question": question, "context": context, "answers": {"text": texts, "answer_start": starts}}


def random_rows(count: int, seed: int = 0, unanswerable: bool = False) -> list[dict[str, Any]]:
    """Returns rows with contexts of 1 to 60 words and answers of 1 to 5 words."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = rng.choice(WORDS, size=rng.integers(1, 60)).tolist()
        first = int(rng.integers(len(words)))
        start = len(" ".join([*words[:first], ""]))
        answer = " ".join(words[first : first + int(rng.integers(1, 6))])
        rows.append(row(context=" ".join(words)))
        if not (unanswerable and i % 3 == 0):
            rows[-1]["answers"] = {"text": [answer], "answer_start": [start]}
    return rows


def gold_outputs(features: Sequence[Any], padding: int = 0) -> list[torch.Tensor]:
    """Returns logits of 1 at the gold start and end, and of 100 in the padding, which must be ignored."""
    outputs = []
    for feature in features:
        output = torch.zeros(len(feature["input_ids"]) + padding, 2)
        output[feature["start_positions"], 0] = output[feature["end_positions"], 1] = 1
        output[len(feature["input_ids"]) :] = 100
        outputs.append(output)
    return outputs


def random_outputs(features: Sequence[Any], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(feature["input_ids"]), 2, generator=generator) for feature in features]


def positions(features: Sequence[Any]) -> list[tuple[int, int]]:
    return [(feature["start_positions"], feature["end_positions"]) for feature in features]


def test_windows_overlap_by_the_stride(tokenizer):
    features = SMALL.encode([row("old story")], tokenizer, CONFIG)
    tokens = [tokenizer.convert_ids_to_tokens(feature["input_ids"]) for feature in features]
    assert [" ".join(t) for t in tokens] == [
        "[CLS] what film [SEP] the film is a good old story [SEP]",
        "[CLS] what film [SEP] old story we love it [SEP]",
    ]
    assert features[1]["offsets"] == [None] * 4 + [(19, 22), (23, 28), (29, 31), (32, 36), (37, 39), None]


def test_offsets_after_two_separators():
    feature = SMALL.encode([row("the film", "the film")], roberta_like(), CONFIG)[0]
    assert feature["offsets"] == [None] * 5 + [(0, 3), (4, 8), None]


def test_token_types_are_kept_where_the_tokenizer_gives_them():
    assert SMALL.encode([row("it", "it")], bert_like(), CONFIG)[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert "token_type_ids" not in SMALL.encode([row("it", "it")], make_tokenizer(), CONFIG)[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("old story", [(9, 10), (4, 5)]),  # in both windows
        ("story we", [(0, 0), (5, 6)]),  # cut by the first window's edge
        ("the", [(4, 4), (0, 0)]),  # before the second window
        (" good ", [(8, 8), (0, 0)]),  # spaces around the answer
        ("ood ol", [(8, 9), (0, 0)]),  # parts of words are extended to whole words
        (None, [(0, 0), (0, 0)]),
    ],
)
def test_gold_positions(tokenizer, answer, expected):
    assert positions(SMALL.encode([row(answer)], tokenizer, CONFIG)) == expected


@TOKENIZERS
def test_gold_positions_decode_to_the_answer_in_every_window_that_holds_it(make):
    rows = random_rows(30)
    for feature in SMALL.encode(rows, make(), CONFIG):
        sample = rows[feature["example"]]
        text, start = sample["answers"]["text"][0], sample["answers"]["answer_start"][0]
        spans = [span for span in feature["offsets"] if span]
        contains_answer = spans[0][0] <= start and start + len(text) <= spans[-1][1]
        first, last = feature["start_positions"], feature["end_positions"]
        assert (first > 0) == contains_answer
        if contains_answer:
            assert sample["context"][feature["offsets"][first][0] : feature["offsets"][last][1]] == text


@TOKENIZERS
@pytest.mark.parametrize("unanswerable", [False, True])
def test_gold_logits_score_1(make, unanswerable):
    task = SpanTask(name="task", max_length=16, stride=6, with_unanswerable=unanswerable)
    rows = random_rows(30, unanswerable=unanswerable)
    features = task.encode(rows, make(), CONFIG)
    assert len(features) > len(rows)
    metrics = without_intervals(task.score(gold_outputs(features, padding=3), features, rows))
    assert set(metrics.values()) == {1.0}
    assert len(metrics) == (6 if unanswerable else 2)


def test_questions_that_are_cut_are_said(tokenizer, caplog):
    questions = ("what film is it", "what film", "what film ")
    SMALL.encode([row("it", question=question) for question in questions], tokenizer, CONFIG)
    assert "1 of 3 questions have more than 3 tokens" in caplog.text


def test_leading_spaces_of_a_question_are_ignored(tokenizer):
    spaced, plain = (SMALL.encode([row("it", question=q)], tokenizer, CONFIG) for q in ("  \n what film", "what film"))
    assert spaced == plain


@TOKENIZERS
@pytest.mark.parametrize("max_length", [12, 13, 30, 384])
def test_long_questions_leave_room_for_windows(make, max_length):
    task = SpanTask(name="task", max_length=max_length)
    rows = [row("love it", context=" ".join([CONTEXT] * 5), question="how " * 500)]
    features = task.encode(rows, make(), CONFIG)
    assert max(len(feature["input_ids"]) for feature in features) <= min(max_length, 64)
    assert task.score(gold_outputs(features), features, rows)["exact_match"] == 1


def test_a_length_without_room_is_an_error(tokenizer):
    with pytest.raises(TrimformerError, match="max_length 4 leaves no room"):
        SpanTask(name="task", max_length=4).encode([row("it")], tokenizer, CONFIG)


@pytest.mark.parametrize("n_best", [1, 4, 100])
@pytest.mark.parametrize("seed", range(5))
def test_best_span_equals_a_search_over_all_pairs(tokenizer, n_best, seed):
    task = SpanTask(name="task", max_length=16, stride=6, n_best=n_best, max_answer_length=3)
    rows = random_rows(8, seed)
    features = task.encode(rows, tokenizer, CONFIG)
    outputs = random_outputs(features, seed)
    best = [(-np.inf, "")] * len(rows)
    for feature, output in zip(features, outputs, strict=True):
        context = [i for i, span in enumerate(feature["offsets"]) if span]
        starts, ends = (sorted(context, key=lambda i: -output[i, side])[:n_best] for side in (0, 1))
        for i, j in itertools.product(starts, ends):
            if i <= j < i + 3:
                text = rows[feature["example"]]["context"][feature["offsets"][i][0] : feature["offsets"][j][1]]
                score = float(output[i, 0] + output[j, 1])
                best[feature["example"]] = max(best[feature["example"]], (score, text))
    assert task.predict_answers(outputs, features, rows) == [text for _, text in best]


def test_answers_do_not_depend_on_the_number_of_windows_at_once(tokenizer, monkeypatch):
    rows = random_rows(10)
    features = SMALL.encode(rows, tokenizer, CONFIG)
    outputs = random_outputs(features)
    expected = SMALL.predict_answers(outputs, features, rows)
    monkeypatch.setattr("trimformer.data.tasks.question_answering.WINDOWS_AT_ONCE", 3)
    assert SMALL.predict_answers(outputs, features, rows) == expected


@pytest.mark.parametrize(
    ("null_scores", "expected"), [((1, 1), "good"), ((3, 3), ""), ((3, 1), "good"), ((1, 3), "good")]
)
def test_no_answer_must_win_in_every_window(tokenizer, null_scores, expected):
    task = SpanTask(name="task", max_length=12, stride=2, with_unanswerable=True)
    rows = [row("good")]
    features = task.encode(rows, tokenizer, CONFIG)
    outputs = [torch.zeros(len(feature["input_ids"]), 2) for feature in features]
    outputs[0][8] = 1  # "good" scores 2
    for output, score in zip(outputs, null_scores, strict=True):
        output[0] = score / 2
    assert task.predict_answers(outputs, features, rows) == [expected]


def test_without_unanswerable_rows_no_answer_never_wins(tokenizer):
    features = SMALL.encode([row("good")], tokenizer, CONFIG)
    outputs = [torch.zeros(len(feature["input_ids"]), 2) for feature in features]
    for output in outputs:
        output[0] = 9
    assert SMALL.predict_answers(outputs, features, [row("good")]) != [""]


def test_a_context_without_tokens_has_no_answer(tokenizer):
    rows = [row(context=" ")]
    features = SMALL.encode(rows, tokenizer, CONFIG)
    assert SMALL.predict_answers(random_outputs(features), features, rows) == [""]


def test_metrics_by_answerability(tokenizer):
    task = find_task("squad_v2")
    rows = [row("good old story"), row(None), row(None)]
    features = task.encode(rows, tokenizer, CONFIG)
    outputs = [torch.zeros(len(feature["input_ids"]), 2) for feature in features]
    outputs[0][8, 0] = outputs[0][9, 1] = 1  # "good old"
    outputs[1][0] = 1  # no answer
    outputs[2][8] = 1  # an answer
    assert without_intervals(task.score(outputs, features, rows)) == pytest.approx(
        {
            "exact_match": 1 / 3,
            "f1": (0.8 + 1) / 3,
            "has_ans_exact": 0,
            "has_ans_f1": 0.8,
            "no_ans_exact": 0.5,
            "no_ans_f1": 0.5,
        }
    )


def test_groups_without_rows_are_left_out(tokenizer):
    task = find_task("squad_v2")
    features = task.encode([row("good")], tokenizer, CONFIG)
    assert "no_ans_f1" not in task.score(gold_outputs(features), features, [row("good")])


def test_rows_without_answers(tokenizer):
    rows = [{"question": "what", "context": CONTEXT}]
    features = SMALL.encode(rows, tokenizer, CONFIG)
    assert "start_positions" not in features[0]
    assert SMALL.score(random_outputs(features), features, rows) == {}


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_a_models_answers_do_not_depend_on_the_batches(family):
    tokenizer, model = make_tokenizer(), make_model(family, "ForQuestionAnswering", num_labels=2)
    rows = random_rows(6)
    features = SMALL.encode(rows, tokenizer, model.config)
    answers = []
    for size in (1, 7):
        batches = make_batches(features, tokenizer, size)
        answers.append(SMALL.predict_answers(unbatch(predict(model, batches), batches), features, rows))
    assert answers[0] == answers[1]


def broken(**changes: Any) -> list[dict[str, Any]]:
    return [row("good"), {**row("good"), **changes}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        (broken(context=None), "column 'context' is empty in row 2"),
        (broken(answers=None), "column 'answers' is empty in row 2"),
        (broken(answers="good"), "'answers' of row 2 are not in SQuAD's format"),
        (broken(answers={"text": ["good"]}), "'answers' of row 2 are not in SQuAD's format"),
        (broken(answers={"text": ["good"], "answer_start": []}), "'answers' of row 2 are not in SQuAD's format"),
        (broken(context="the film"), "the answer of row 2 lies outside its context"),
        (broken(answers={"text": ["good"], "answer_start": [-1]}), "the answer of row 2 lies outside its context"),
    ],
)
def test_bad_rows_are_named(tokenizer, rows, message):
    with pytest.raises(TrimformerError, match=message):
        SMALL.encode(rows, tokenizer, CONFIG)


def test_an_answer_that_differs_from_its_context_is_tolerated(tokenizer):
    rows = [{**row(), "answers": {"text": ["GOOD"], "answer_start": [CONTEXT.index("good")]}}]
    assert positions(SMALL.encode(rows, tokenizer, CONFIG))[0] == (8, 8)


def test_padding_on_the_left_is_an_error(tokenizer):
    tokenizer.padding_side = "left"
    with pytest.raises(TrimformerError, match="pads on the left"):
        SMALL.encode([row("good")], tokenizer, CONFIG)


@pytest.mark.parametrize("answer", [None, "", "good"])
def test_inferred_from_the_problem_and_the_answers(answer):
    task = infer_task("span", CONFIG, [row("good"), row(answer)])
    assert isinstance(task, SpanTask)
    assert task.with_unanswerable == (not answer)
    assert (task.metric, task.max_length) == ("f1", 384)


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The U.S.A.!", ["usa"], 1, 1),
        ("an  old\nfilm", ["the old film"], 1, 1),
        ("theme", ["me"], 0, 0),  # articles are whole words
        ("good old story", ["good story"], 0, 0.8),
        ("good good", ["good"], 0, 2 / 3),  # each gold word is matched once
        ("old story", ["new film", "old story", "story"], 1, 1),
        ("story", ["new film", "old story"], 0, 2 / 3),
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("good", [], 0, 0),
        ("", ["good"], 0, 0),
        ("", ["the", "good"], 0, 0),  # a gold answer without words is no answer
    ],
)
def test_squad_metrics_by_hand(prediction, golds, exact, f1):
    assert squad_exact(prediction, golds) == exact
    assert squad_f1(prediction, golds) == pytest.approx(f1)
