"""Labels mean the same class in the data and in the model, whatever the format and whoever numbers them."""

import functools

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from torch.utils.data import DataLoader

from tests.commands import write_jsonl
from tests.conftest import make_model, make_tokenizer
from trimformer.data.rows import Selection, as_rows
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import TASKS, find_task
from trimformer.errors import TrimformerError
from trimformer.options.data import DataOptions
from trimformer.session.task import resolve_task

SPAM = ("spam", "ham", "other")
MULTI = {"problem_type": "multi_label_classification"}
TAGS = ("B-PER", "O", "I-PER")


@functools.cache
def model_of(names, head="ForSequenceClassification", problem_type=None):
    ids = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return make_model(head=head, **ids, num_labels=len(names), num_hidden_layers=1, problem_type=problem_type)


def read(model, *sets, task=None, **options):
    """The labels of the features of each set, and the task."""
    sets = [as_rows(rows) for rows in sets]
    task = resolve_task(task and find_task(task), DataOptions(**options), model, sets)
    encoded = [task.encode(rows, make_tokenizer(), model.config) for rows in sets]
    return [[feature.get("labels") for feature in features] for features in encoded], task


def labels_of(names, *sets, head="ForSequenceClassification", **options):
    """The class names, in the model, of the labels of the first set."""
    labels, _ = read(model_of(tuple(names), head), *sets, **options)
    return [names[label] for label in labels[0]]


def dataset(names, labels, inner=lambda feature: feature, column="label", **columns):
    columns = columns or {"text": ["good film"] * len(labels)}
    features = Features({**{name: Value("string") for name in columns}, column: inner(ClassLabel(names=list(names)))})
    if "tokens" in columns:
        features["tokens"] = Sequence(Value("string"))
    return Dataset.from_dict({**columns, column: labels}, features=features)


def as_parquet(data, path):
    data.to_parquet(path / "rows.parquet")
    return read_splits(path / "rows.parquet")["all"]


def as_saved(data, path):
    data.save_to_disk(path / "saved")
    return read_splits(path / "saved")["all"]


FORMS = {
    "Dataset": lambda data, path: data,
    "IterableDataset": lambda data, path: data.to_iterable_dataset(),
    "saved folder": as_saved,
    "Parquet": as_parquet,
    "Arrow table": lambda data, path: pyarrow.parquet.read_table(as_parquet(data, path) and path / "rows.parquet"),
    "held-out rows": lambda data, path: Selection(data, range(len(data))),
}


class TestNamedNumbers:
    """Issue 23 A."""

    @pytest.mark.parametrize("form", FORMS)
    def test_numbers_are_matched_by_name(self, form, tmp_path):
        data = dataset(("ham", "other", "spam"), [0, 1, 2, 0])
        assert labels_of(SPAM, FORMS[form](data, tmp_path)) == ["ham", "other", "spam", "ham"]

    def test_class_encode_column_sorts_the_names(self):
        data = Dataset.from_dict({"text": ["a", "b", "c"], "label": ["spam", "ham", "other"]})
        assert labels_of(SPAM, data.class_encode_column("label")) == ["spam", "ham", "other"]

    @pytest.mark.parametrize("names", [("Ham", "SPAM"), ("ham ", "spam"), ("HAM", "Spam")])
    def test_names_match_in_any_case(self, names):
        assert labels_of(SPAM, dataset(names, [0, 1])) == ["ham", "spam"]

    @pytest.mark.parametrize(
        ("model", "data"),
        [
            (("NEGATIVE", "POSITIVE"), ("pos", "neg")),
            (("not entailment", "entailment"), ("entailment", "not_entailment")),
            (("1 star", "2 stars"), ("2 stars", "1 star")),
        ],
    )
    def test_names_match_however_they_are_written(self, model, data):
        assert labels_of(model, dataset(data, [0, 1])) == [model[1], model[0]]

    @pytest.mark.parametrize(
        ("model", "data"), [(SPAM, ("cat", "dog")), (SPAM, ("ham", "eggs")), (("ab", "b"), ("a", "b"))]
    )
    def test_other_names_are_refused(self, model, data):
        with pytest.raises(TrimformerError, match=r"label \d in row \d means '\w+', but the model's labels are"):
            labels_of(model, dataset(data, [0, 1]))

    def test_a_name_that_no_row_uses_may_be_unknown(self):
        assert labels_of(SPAM, dataset(("unused", "ham", "spam"), [2, 1])) == ["spam", "ham"]

    @pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("0", "1")])
    def test_a_model_without_names_takes_the_numbers_as_they_are(self, names, caplog):
        with caplog.at_level("INFO", "trimformer"):
            assert labels_of(names, dataset(("ham", "spam"), [1, 0])) == [names[1], names[0]]
        assert "class ids, which the data name (0 ham, 1 spam) and the model does not" in caplog.text

    def test_data_without_names_gives_class_ids(self, caplog):
        with caplog.at_level("INFO", "trimformer"):
            assert labels_of(SPAM, dataset(("0", "1", "2"), [2, 0])) == ["other", "spam"]
        assert "column 'label' holds class ids: 0 spam, 1 ham, 2 other" in caplog.text

    def test_the_log_and_the_task_tell_another_numbering(self, caplog):
        with caplog.at_level("INFO", "trimformer"):
            _, task = read(model_of(SPAM), dataset(("ham", "spam"), [0, 1]))
        assert "the model numbers them otherwise (0 spam, 1 ham, 2 other): matched by name" in caplog.text
        assert task.reading.description in caplog.text

    @pytest.mark.parametrize("form", ["Dataset", "Parquet", "saved folder"])
    def test_tags_are_matched_by_name(self, form, tmp_path):
        data = dataset(
            ("O", "B-PER", "I-PER"), [[1, 2, 0], [0]], Sequence, "ner_tags", tokens=[["we", "saw", "it"], ["it"]]
        )
        labels, _ = read(model_of(TAGS, "ForTokenClassification"), FORMS[form](data, tmp_path))
        assert [[TAGS[i] for i in row if i != -100] for row in labels[0]] == [["B-PER", "I-PER", "O"], ["O"]]

    def test_several_labels_are_matched_by_name(self):
        data = dataset(("ham", "spam"), [[0], [1, 0], []], Sequence, "labels", text=["a", "b", "c"])
        assert read(model_of(SPAM, **MULTI), data)[0] == [[[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]

    def test_encoded_rows_are_matched_by_name(self):
        def encode(row):
            return {"input_ids": [0, 5, 2], "attention_mask": [1, 1, 1]}

        data = dataset(("ham", "spam"), [0, 1]).map(encode).remove_columns("text")
        assert labels_of(SPAM, data) == ["ham", "spam"]
        loader = DataLoader(data.rename_column("label", "labels").with_format("torch"), batch_size=2)
        assert labels_of(SPAM, loader) == ["ham", "spam"]

    def test_each_set_has_its_own_numbering(self):
        labels, _ = read(model_of(SPAM), dataset(("ham", "spam"), [0, 1]), dataset(("spam", "ham"), [0, 1]))
        assert labels == [[1, 0], [0, 1]]

    def test_plain_numbers_beside_another_numbering_are_refused(self):
        with pytest.raises(TrimformerError, match="others give plain numbers"):
            read(model_of(SPAM), dataset(("ham", "spam"), [0, 1]), [{"text": "a", "label": 1}])

    def test_an_unlabelled_row_of_a_public_test_set_is_named(self):
        for data in (dataset(("ham", "spam"), [0, -1]), [{"text": "a", "label": -1}]):
            with pytest.raises(TrimformerError, match=r"label -1 in row .* without a label"):
                labels_of(SPAM, data)

    def test_numbers_in_names_are_the_values_of_a_regression(self):
        labels, _ = read(make_model(num_labels=1), dataset(("1", "2.5"), [0, 1]))
        assert labels == [[1.0, 2.5]]

    def test_names_that_are_no_numbers_are_no_values_of_a_regression(self):
        with pytest.raises(TrimformerError, match=r"holds classes .* and the model gives a number"):
            read(make_model(num_labels=1), dataset(("exact", "other", "none"), [0, 1]))

    def test_two_classes_of_a_model_with_one_output_are_0_and_1(self):
        labels, task = read(make_model(num_labels=1), dataset(("other", "duplicate"), [0, 1]))
        assert labels == [[0.0, 1.0]]
        assert "two classes" in task.reading.description


class TestCompanionColumns:
    """A text column beside numbered labels names them."""

    @pytest.mark.parametrize("name", ["label_text", "label_name", "sentiment"])
    def test_it_names_the_numbers(self, name):
        rows = [{"text": "a", "label": 0, name: "ham"}, {"text": "b", "label": 1, name: "spam"}]
        assert labels_of(SPAM, rows, label_column="label") == ["ham", "spam"]
        assert labels_of(SPAM, pandas.DataFrame(rows), label_column="label") == ["ham", "spam"]

    def test_the_texts_are_no_names_if_they_differ_from_row_to_row(self):
        rows = [{"text": text, "label": label} for text, label in (("ham", 1), ("spam", 0), ("ham", 0))]
        assert labels_of(SPAM, rows) == ["ham", "spam", "spam"]

    def test_a_contradiction_is_refused(self):
        rows = [{"text": "a", "label": 0, "label_text": name} for name in ("ham", "spam")]
        with pytest.raises(TrimformerError, match="'label' and 'label_text' contradict each other"):
            labels_of(SPAM, rows)
        rows = [{"text": "a", "label": 0, "label_text": "eggs"}, {"text": "a", "label": 1, "label_text": "ham"}]
        with pytest.raises(TrimformerError, match="means 'eggs'"):
            labels_of(SPAM, rows)

    def test_a_model_without_names_takes_the_numbers(self):
        rows = [{"text": "a", "label": i, "label_text": name} for i, name in enumerate(("ham", "spam"))]
        assert labels_of(("LABEL_0", "LABEL_1"), rows) == ["LABEL_0", "LABEL_1"]


class TestKnownTasks:
    """Known tasks number their classes as the public data does."""

    NLI = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")

    def test_mnli_is_matched_by_name(self):
        rows = [{"premise": "a", "hypothesis": "b", "label": i} for i in range(3)]
        assert labels_of(self.NLI, rows, task="mnli") == ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]
        assert labels_of([f"LABEL_{i}" for i in range(3)], rows, task="mnli") == ["LABEL_0", "LABEL_1", "LABEL_2"]

    def test_the_names_of_the_data_come_first(self):
        data = dataset(("neutral", "entailment"), [0, 1], premise=["a", "a"], hypothesis=["b", "b"])
        assert labels_of(self.NLI, data, task="mnli") == ["NEUTRAL", "ENTAILMENT"]

    def test_other_names_are_refused(self):
        with pytest.raises(TrimformerError, match="means 'negative'"):
            labels_of(("ham", "spam"), [{"sentence": "a", "label": 0}], task="sst2")

    @pytest.mark.parametrize("name", [name for name in TASKS if "squad" not in name and name != "stsb"])
    def test_every_classification_task_names_its_classes(self, name):
        assert len(TASKS[name].class_names) == (3 if name == "mnli" else 2)


STARS = ("1", "2", "3", "4", "5")


def write(rows, path, form):
    """Rows through a file of this form."""
    if form == "python":
        return rows
    frame = pandas.DataFrame(rows)
    file = path / f"rows.{form}"
    {"csv": frame.to_csv, "parquet": frame.to_parquet, "jsonl": lambda f, **_: write_jsonl(f, rows)}[form](
        file, index=False
    )
    return read_splits(file)["all"]


class TestOneRule:
    """Issue 23 F: a number means the same in every format."""

    @pytest.mark.parametrize(
        ("names", "values", "expected"),
        [
            (STARS, [1, 2, 3, 4], ["1", "2", "3", "4"]),
            (STARS, [1, 5], ["1", "5"]),
            (STARS, [0, 4], ["1", "5"]),
            (("1 star", "2 stars", "3 stars"), [3, 1], ["3 stars", "1 star"]),
            (("-1", "0", "1"), [-1, 1], ["-1", "1"]),
            (("1", "0"), [0, 1], ["0", "1"]),
            (SPAM, [2, 0], ["other", "spam"]),
            (("LABEL_0", "LABEL_1"), [1, 0], ["LABEL_1", "LABEL_0"]),
        ],
    )
    def test_every_format_gives_the_same_classes(self, names, values, expected, tmp_path):
        for kind in (int, str, float):
            rows = [{"text": "good film", "label": kind(value)} for value in values]
            for form in ("python", "jsonl", "csv", "parquet"):
                assert labels_of(names, write(rows, tmp_path, form)) == expected, (kind, form)

    def test_all_rows_decide_together(self):
        rows = [{"text": "a", "label": i} for i in (1, 2, 3)]
        assert labels_of(STARS, rows) == ["1", "2", "3"]
        assert labels_of(STARS, rows, [{"text": "a", "label": 0}]) == ["2", "3", "4"]

    @pytest.mark.parametrize("values", [[0, 5], ["0", "5"]])
    def test_numbers_that_are_neither_ids_nor_names_are_refused(self, values):
        with pytest.raises(TrimformerError, match=r"(numbers|label) .*0.* neither|outside the model's 5 labels"):
            labels_of(STARS, [{"text": "a", "label": value} for value in [*values, 1, 2]])

    def test_the_reading_is_told_and_recorded(self, caplog):
        with caplog.at_level("INFO", "trimformer"):
            _, task = read(model_of(STARS), [{"text": "a", "label": 1}])
        assert "although all could be class ids: 1 is '1', 2 is '2'" in task.reading.description
        assert task.reading.description in caplog.text

    def test_numbers_of_encoded_rows_are_class_ids(self):
        rows = [{"input_ids": [0, 5, 2], "labels": label} for label in (1, 2)]
        assert labels_of(STARS, rows) == ["2", "3"]
        labels, _ = read(
            model_of(STARS, "ForTokenClassification"), [{"input_ids": [0, 5, 2], "labels": [-100, 1, -100]}]
        )
        assert labels == [[[-100, 1, -100]]]

    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    def test_lists_of_zeros_and_ones(self, form, tmp_path):
        lists = [[0, 1, 1], [1, 1, 0]]
        rows = [{"text": "a", "label": " ".join(map(str, row)) if form == "csv" else row} for row in lists]
        assert read(model_of(SPAM, **MULTI), write(rows, tmp_path, form))[0][0] == lists

    def test_lists_are_all_of_zeros_and_ones_or_none(self):
        model = model_of(("joy", "fear"), **MULTI)
        assert read(model, [{"text": "a", "label": row} for row in ([0, 1], [1, 0])])[0] == [[[0.0, 1.0], [1.0, 0.0]]]
        assert read(model, [{"text": "a", "label": row} for row in ([0, 1], [0])])[0] == [[[1.0, 1.0], [1.0, 0.0]]]
        with pytest.raises(TrimformerError, match="mixes lists of one 0 or 1 per class"):
            read(model, [{"text": "a", "label": row} for row in ([1, 1], [0])])


class TestBrokenMaps:
    ROWS = ({"text": "a", "label": "spam"}, {"text": "b", "label": 1})

    def read(self, id2label, label2id=None, rows=ROWS):
        model = make_model(num_labels=2)
        model.config.id2label = id2label
        model.config.label2id = label2id or {name: i for i, name in id2label.items()}
        return read(model, rows)[0][0]

    def test_gaps_are_refused(self):
        with pytest.raises(TrimformerError, match="has the ids 0, 2; number its 2 labels from 0 to 1"):
            self.read({0: "spam", 2: "ham"})

    def test_a_repeated_name_is_refused_if_it_is_used(self):
        with pytest.raises(TrimformerError, match=r"several labels named 'spam' \(0, 1 in id2label"):
            self.read({0: "spam", 1: "spam"})
        assert self.read({0: "crane", 1: "crane"}, rows=self.ROWS[1:]) == [1]

    def test_more_names_than_outputs_are_refused(self):
        with pytest.raises(TrimformerError, match="the model has 2 outputs, but id2label in its config names 3"):
            self.read({0: "spam", 1: "ham", 2: "other"})

    def test_maps_that_contradict_each_other_are_refused(self):
        with pytest.raises(TrimformerError, match="'spam' has the id 0 in id2label and 1 in label2id"):
            self.read({0: "spam", 1: "ham"}, {"spam": 1, "ham": 0})

    def test_a_default_label2id_is_no_contradiction(self):
        assert self.read({0: "spam", 1: "ham"}, {"LABEL_0": 0, "LABEL_1": 1}) == [0, 1]

    def test_names_in_label2id_alone_are_names(self):
        assert self.read({0: "LABEL_0", 1: "LABEL_1"}, {"ham": 0, "spam": 1}) == [1, 1]


class TestTuples:
    """Issue 23 G: a second string may be a label."""

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(("ham", "spam"), [1, 0]), (("Ham", "SPAM"), [1, 0]), (("1", "0"), [1, 0]), (("ham", "ham"), [1, 1])],
    )
    def test_labels_are_labels(self, seconds, expected):
        labels, task = read(model_of(SPAM), [("good film", second) for second in seconds])
        assert (labels[0], task.metric, task.text_columns) == (expected, "accuracy", ("text",))
        features = task.encode(as_rows([("good film", "ham")]), make_tokenizer(), model_of(SPAM).config)
        assert features[0]["input_ids"] == make_tokenizer()("good film")["input_ids"]

    def test_the_rows_may_be_split(self):
        train, held_out = find_splits({"all": as_rows([("good film", SPAM[i % 3]) for i in range(20)])})
        labels, _ = read(model_of(SPAM), train, held_out["validation"])
        assert len(labels[0]) == 16
        assert None not in labels[0]

    def test_several_labels_numbers_and_tags(self):
        assert read(model_of(SPAM, **MULTI), [("a", "spam,ham"), ("b", "ham")])[0] == [[[1, 1, 0], [0, 1, 0]]]
        assert read(make_model(num_labels=1), [("a", "0.5"), ("b", "-2")])[0] == [[0.5, -2.0]]
        labels, task = read(model_of(TAGS, "ForTokenClassification"), [("we saw", "B-PER O")])
        assert labels == [[[-100, 0, 1, -100]]]
        assert task.metric == "f1"

    @pytest.mark.parametrize("tags", ["['B-PER', 'O']", "['B-PER' 'O']", "[0, 1]", "[0 1]", "B-PER O", "0 1"])
    @pytest.mark.parametrize("words", ["['we', 'saw']", "['we' 'saw']", "we saw"])
    def test_words_and_tags_are_lists_as_pandas_and_numpy_write_them(self, words, tags):
        labels, _ = read(model_of(TAGS, "ForTokenClassification"), [{"tokens": words, "ner_tags": tags}])
        assert labels == [[[-100, 0, 1, -100]]]

    @pytest.mark.parametrize("write_list", [
        lambda hot: ",".join(f"{x:.1f}" for x in hot), lambda hot: [f"{x:.1f}" for x in hot],
        lambda hot: ",".join(str(bool(x)) for x in hot), lambda hot: ";".join(map(str, hot)),
    ])  # fmt: skip
    def test_a_0_or_1_for_each_class_may_be_written_in_many_ways(self, write_list):
        lists = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]
        rows = [{"text": "good film", "label": write_list(hot)} for hot in lists]
        assert read(model_of(SPAM, **MULTI), rows)[0] == [lists]

    def test_texts_are_texts(self):
        labels, task = read(model_of(SPAM), [("good film", "bad plot"), ("bad film", "ham")])
        assert (labels, task.text_columns) == ([[None, None]], ("text", "text_pair"))
        rows = [{"text": "good film", "text_pair": "ham"}]
        assert read(model_of(SPAM), rows)[1].text_columns == ("text", "text_pair")

    @pytest.mark.parametrize("seconds", [["ham", "spam", "hamm"], ["eggs", "bacon"] * 10])
    def test_an_unknown_label_is_refused(self, seconds):
        with pytest.raises(TrimformerError, match=r"look like labels, but '(hamm|eggs)' is none"):
            read(model_of(SPAM), [("good film", second) for second in seconds])


class TestSmaller:
    """Issue 23 H."""

    @pytest.mark.parametrize("form", ["python", "jsonl", "csv", "parquet"])
    @pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("no", "yes")])
    def test_truth_values_are_zero_and_one(self, form, names, tmp_path):
        rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
        assert labels_of(names, write(rows, tmp_path, form)) == [names[1], names[0]]

    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    def test_truth_values_are_names_if_the_model_has_them(self, form, tmp_path):
        rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
        assert labels_of(("True", "False"), write(rows, tmp_path, form)) == ["True", "False"]

    def test_truth_values_in_columns_of_labels(self, tmp_path):
        rows = [{"text": "a", "spam": True, "ham": False, "other": True}]
        assert read(model_of(SPAM, **MULTI), write(rows, tmp_path, "csv"))[0] == [[[1.0, 0.0, 1.0]]]

    def test_names_may_differ_in_case_and_outer_spaces(self):
        rows = [{"text": "a", "label": name} for name in ("Spam", "HAM", " other")]
        assert labels_of(SPAM, rows) == list(SPAM)

    def test_names_that_differ_in_case_only_are_told_apart(self):
        names = ("may", "May")
        assert labels_of(names, [{"text": "a", "label": name} for name in names]) == list(names)
        with pytest.raises(TrimformerError, match="several labels named 'MAY'"):
            labels_of(names, [{"text": "a", "label": "MAY"}])

    @pytest.mark.parametrize(
        ("model", "row"),
        [
            (model_of(SPAM), {"label": "x" * 99_999}),
            (model_of(SPAM), {"label": {"key": "x" * 99_999}}),
            (model_of(SPAM, **MULTI), {"label": ["x" * 99_999]}),
            (model_of(SPAM, **MULTI), {"label": [[1] * 99_999]}),
            (make_model(num_labels=1), {"label": "x" * 99_999}),
            (model_of(("n" * 9_999,) * 99), {"label": "x"}),
            (model_of(TAGS, "ForTokenClassification"), {"tokens": ["a"], "ner_tags": ["x" * 99_999]}),
            (model_of(SPAM, **MULTI), {"spam": "x" * 99_999, "ham": 1, "other": 0}),
            (model_of(SPAM), {"label": 1, **{f"column {i}": i for i in range(9_999)}, "text": None}),
        ],
    )
    def test_quoted_values_are_cut(self, model, row):
        with pytest.raises(TrimformerError) as raised:
            read(model, [{"text": "a", **row}])
        assert len(str(raised.value)) < 2_000


class TestHalfLabelled:
    """Issue 24, item 14: what is accepted does not depend on the rows that are drawn."""

    ROWS = tuple({"text": "good film", "label": i % 2} for i in range(20))

    def halves(self, missing, *positions):
        rows = [dict(row) for row in self.ROWS]
        for i in positions:
            rows[i] = {"text": "good film", **({} if missing == "key" else {"label": missing})}
        return rows

    @pytest.mark.parametrize("missing", ["key", None, float("nan"), "", -1, 7, "eggs"])
    def test_a_missing_or_wrong_label_is_refused_whatever_is_drawn(self, missing):
        for position in (0, 7, 19):
            for seed in range(4):
                train, sets = find_splits({"all": self.halves(missing, position)}, seed)
                with pytest.raises(TrimformerError, match=rf"row {position + 1}\b"):
                    resolve_task(None, DataOptions(), model_of(SPAM), [train, *sets.values()])

    def test_labels_in_the_last_row_only_are_refused(self):
        with pytest.raises(TrimformerError, match="row 1"):
            read(model_of(SPAM), self.halves("key", *range(19)))

    def test_an_unlabelled_set_beside_a_labelled_one_is_refused(self):
        for sets in ((self.ROWS, [{"text": "a"}]), ([{"text": "a"}], self.ROWS)):
            with pytest.raises(TrimformerError, match="some splits of the data have the column 'label'"):
                read(model_of(SPAM), *map(list, sets))

    @pytest.mark.parametrize("missing", [None, "", float("nan")])
    def test_a_column_without_any_label_is_none(self, missing):
        labels, task = read(model_of(SPAM), [{"text": "a", "label": missing}] * 3)
        assert (labels, task.metric) == ([[None] * 3], None)

    @pytest.mark.parametrize(
        ("head", "labelled", "unlabelled"),
        [
            ("ForTokenClassification", {"tokens": ["a"], "ner_tags": [0]}, {"tokens": ["a"]}),
            (
                "ForMultipleChoice",
                {"question": "a", "choices": ["b", "c"], "label": 0},
                {"question": "a", "choices": ["b", "c"]},
            ),
            ("Model", {"sentence1": "a", "sentence2": "b", "score": 1.5}, {"sentence1": "a", "sentence2": "b"}),
            (
                "ForQuestionAnswering",
                {"question": "a", "context": "the film", "answers": {"text": [], "answer_start": []}},
                {"question": "a", "context": "the film"},
            ),
        ],
    )
    def test_every_head_has_the_same_rule(self, head, labelled, unlabelled):
        model = make_model(head=head)
        for rows in ([labelled, unlabelled], [unlabelled, labelled]):
            with pytest.raises(TrimformerError, match="row"):
                read(model, rows)
        assert read(model, [labelled, labelled])[1].metric
        assert read(model, [unlabelled, unlabelled])[1].metric is None


def test_torch_and_numpy_labels_are_read_like_numbers():
    for kind in (torch.tensor, np.int64, np.array):
        assert labels_of(SPAM, [{"text": "a", "label": kind(1)}]) == ["ham"]


def test_formats_of_datasets_do_not_matter():
    data = dataset(("ham", "spam"), [0, 1])
    for shown in (data.with_format("numpy"), data.with_format("pandas"), data.with_transform(lambda batch: batch)):
        assert labels_of(SPAM, shown) == ["ham", "spam"]


def test_a_number_too_large_for_any_float_is_no_class():
    rows = [{"text": "a", "label": "1"}, {"text": "b", "label": "9" * 400}]
    with pytest.raises(TrimformerError, match="is unknown to the model"):
        labels_of(SPAM, rows)
