"""Which token carries a word's label, and the scores of entities and of plain tags."""

from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.conftest import make_model, make_tokenizer
from trimformer.data.tasks import TokenTask, infer_task
from trimformer.data.tasks.token_classification import token_task
from trimformer.errors import TrimformerError
from trimformer.evaluation.changed_predictions import SampleOutputs, find_changed

ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def make_config(names: tuple[str, ...] = ENTITIES) -> Any:
    config = make_model(head="ForTokenClassification", num_labels=len(names)).config
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    return config


CONFIG = make_config()
TASK = TokenTask(name="ner", label_names=ENTITIES)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer like RoBERTa's, in which a leading space is part of the token."""
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<pad>", "it", "Ġit", "film", "Ġfilm"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def one_hot(*samples: list[int], classes: int = 5) -> list[torch.Tensor]:
    return [torch.nn.functional.one_hot(torch.tensor(sample), classes).float() for sample in samples]


@pytest.mark.parametrize("tags", [[1, 2, 0], ["B-PER", "I-PER", "O"], "1 2 0"])
def test_the_first_token_of_a_word_carries_its_label(tokenizer, tags):
    rows = [{"tokens": ["good", "old-film", "it"], "ner_tags": tags}]  # "old-film" is three tokens
    assert TASK.encode(rows, tokenizer, CONFIG)[0]["labels"] == [-100, 1, 2, -100, -100, 0, -100]


@pytest.mark.parametrize("words", ["['good', 'old film']", "['good' 'old film']", str(["good", "old film"])])
def test_a_list_of_words_as_pandas_writes_it_is_a_list(tokenizer, words):
    listed = TASK.encode([{"tokens": ["good", "old film"], "ner_tags": [1, 2]}], tokenizer, CONFIG)
    assert TASK.encode([{"tokens": words, "ner_tags": "1 2"}], tokenizer, CONFIG) == listed


def test_labels_are_truncated_with_the_tokens(tokenizer):
    task = TokenTask(name="ner", max_length=4)
    feature = task.encode([{"tokens": ["good", "old", "film"], "ner_tags": [1, 2, 3]}], tokenizer, CONFIG)[0]
    assert feature["labels"] == [-100, 1, 2, -100]
    assert len(feature["input_ids"]) == 4


def test_a_word_without_tokens_has_no_label(tokenizer):
    feature = TASK.encode([{"tokens": ["good", "", "film"], "ner_tags": [1, 2, 3]}], tokenizer, CONFIG)[0]
    assert feature["labels"] == [-100, 1, 3, -100]


def test_words_without_a_label_may_have_minus_100():
    rows = [{"tokens": ["good", " ", "old", "film"], "ner_tags": [-100, 0, 2, 3]}]
    feature = TASK.encode(rows, make_tokenizer(), CONFIG)[0]
    assert [label for label in feature["labels"] if label != -100] == [2, 3]
    assert feature["labelled_words"] == [2, 3]
    tokens = [[0, 0, 2, label, 0] for label in (3, 1)]  # [CLS] good old film [SEP]
    dense, pruned = (SampleOutputs(one_hot(labels), [feature]) for labels in tokens)
    (change,) = find_changed(TASK, rows, ENTITIES, dense, pruned).examples
    assert change.word == "film"


def test_byte_level_words_begin_with_a_space():
    tokenizer = byte_level_tokenizer()
    feature = TASK.encode([{"tokens": ["it", "film"], "ner_tags": [0, 1]}], tokenizer, CONFIG)[0]
    assert tokenizer.convert_ids_to_tokens(feature["input_ids"]) == ["Ġit", "Ġfilm"]
    assert tokenizer.tokenize("it") == ["it"]  # the user's tokenizer is unchanged


def test_unlabelled_rows(tokenizer):
    rows = [{"words": ["good", "film"]}]
    task = token_task(CONFIG, rows)
    features = task.encode(rows, tokenizer, CONFIG)
    assert (task.metric, task.tags_column) == (None, None)
    assert task.score(one_hot([0, 0, 0, 0]), features, rows) == {}


def test_entities_by_hand():
    labels = [[-100, 1, 2, -100, 0, 3, -100], [-100, 3, 4, -100]]
    outputs = one_hot([0, 1, 2, 4, 0, 1, 0, 3, 3], [0, 3, 4, 0])  # the first sample ends in padding
    metrics = TASK.score(outputs, [{"labels": sample} for sample in labels], [{}, {}])
    # the two-word PER and LOC are correct; the one-word LOC is predicted as PER
    assert metrics == pytest.approx({"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "accuracy": 5 / 6})


def test_entities_do_not_span_rows():
    outputs = one_hot([1], [2])
    assert TASK.score(outputs, [{"labels": [1]}, {"labels": [2]}], [{}, {}])["f1"] == 1
    assert TASK.score(outputs, [{"labels": [1]}, {"labels": [0]}], [{}, {}])["precision"] == 0.5


def test_no_entities_score_0():
    assert TASK.score(one_hot([0]), [{"labels": [0]}], [{}]) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}


def test_middles_of_bmes_tags_count_and_unknown_prefixes_are_classes():
    names = ("O", "B-PER", "M-PER", "E-PER", "S-PER")
    labels, outputs = [{"labels": [1, 2, 2, 3, 0]}], one_hot([1, 0, 0, 3, 0])
    assert TokenTask(name="ner", label_names=names).score(outputs, labels, [{}])["f1"] == 0
    others = TokenTask(name="ner", label_names=("O", "B-PER", "X-PER", "E-PER", "S-PER"))
    assert "precision" not in others.score(outputs, labels, [{}])
    assert "precision" not in TokenTask(name="pos", label_names=("NOUN", "VERB", "S-X")).score(outputs, labels, [{}])


@pytest.mark.parametrize(
    "names", [("O", "B-PER", "I-PER", "L-PER", "U-PER"), ("O", "B-PER", "I-PER", "[PAD]", "U-PER")]
)
def test_entities_of_bilou_tags_and_beside_other_labels_are_scored_by_entity(names):
    task = TokenTask(name="ner", label_names=names)
    first = [1, 2, 3, 0] if "L-PER" in names else [1, 2, 2, 0]  # one entity, then one of a single word
    labels = [{"labels": first}, {"labels": [4, 0]}]
    assert task.score(one_hot(first, [4, 0]), labels, [{}, {}])["f1"] == 1
    lost = task.score(one_hot(first, [3 if "[PAD]" in names else 0, 0]), labels, [{}, {}])
    assert (lost["precision"], lost["recall"]) == (1, 0.5)


def test_plain_tags_are_scored_by_class():
    task = TokenTask(name="pos", label_names=("NOUN", "VERB"))
    metrics = task.score(one_hot([0, 0, 1, 0], classes=2), [{"labels": [0, 0, 1, 1]}], [{}])
    assert metrics == pytest.approx({"f1": (0.8 + 2 / 3) / 2, "accuracy": 0.75})


@pytest.mark.parametrize("words", ["tokens", "words"])
@pytest.mark.parametrize("tags", ["ner_tags", "tags", "labels", "pos_tags"])
def test_inferred_from_the_problem_and_the_columns(words, tags):
    config = make_model(head="ForTokenClassification", num_labels=2).config
    task = infer_task("tokens", config, [{"id": "0", tags: [0], words: ["it"]}])
    assert isinstance(task, TokenTask)
    assert (task.words_column, task.tags_column, task.metric) == (words, tags, "f1")
    assert task.label_names == ("LABEL_0", "LABEL_1")


def test_named_columns_have_priority():
    rows = [{"tokens": ["it"], "other": ["it"], "tags": [0], "mine": [0]}]
    task = infer_task("tokens", CONFIG, rows, text_columns=["other"], label_column="mine")
    assert (task.words_column, task.tags_column) == ("other", "mine")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["good", "film"], "ner_tags": [0]}, "row 2 has 2 words but 1 tags"),
        ({"tokens": ["good"], "ner_tags": [9]}, "label 9 in row 2 is outside the model's 5 labels"),
        ({"tokens": ["good"], "ner_tags": ["B-ORG"]}, "label 'B-ORG' in row 2 is unknown"),
        ({"tokens": ["good"], "ner_tags": 1}, "'ner_tags' of row 2 is 1, not a list"),
        ({"tokens": ["good"]}, "no column 'ner_tags' in row 2"),
    ],
)
def test_bad_rows_are_named(tokenizer, row, message):
    with pytest.raises(TrimformerError, match=message):
        TASK.encode([{"tokens": ["good"], "ner_tags": [0]}, row], tokenizer, CONFIG)


def test_no_column_of_words():
    with pytest.raises(TrimformerError, match="no column of words found among text"):
        token_task(CONFIG, [{"text": "good film"}])


def test_padding_on_the_left_is_an_error():
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    with pytest.raises(TrimformerError, match="pads on the left"):
        TASK.encode([{"tokens": ["good"], "ner_tags": [0]}], tokenizer, CONFIG)


@pytest.mark.parametrize(
    ("split", "text"),
    [(r" ?[a-z]+| ?[0-9]+", "the film of 24 is"), (r"[^a-z0-9]?[a-z]+|[0-9]| +", "the film of24 is")],  # Llama 3's
)
def test_words_are_those_of_the_text_where_a_rule_splits_before_bytes(split, text):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), to_bytes])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    words = ["the", "film", "of", "24", "is"]
    task = TokenTask(name="tags", words_column="tokens", tags_column=None, max_length=64)
    (features,) = task.encode([{"tokens": words}], tokenizer, CONFIG)
    assert features["input_ids"] == tokenizer(text)["input_ids"]  # a space of its own is left out
