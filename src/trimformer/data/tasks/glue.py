"""Defines the GLUE tasks, with the maximum and average lengths of the paper (section 5.1 and its public settings)."""

from trimformer.data.tasks.text import TextTask

_PAIR = ("sentence1", "sentence2")
_CLASS_NAMES = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
}  # by the numbers of the public data


def _task(
    name: str, columns: tuple[str, ...], average_length: float | None, *metrics: str, max_length: int = 128
) -> TextTask:
    return TextTask(
        name=name,
        problem="regression" if name == "stsb" else "single_label",
        text_columns=columns,
        class_names=_CLASS_NAMES.get(name, ()),
        metrics=metrics or ("accuracy",),
        metric=(metrics or ("accuracy",))[0],
        max_length=max_length,
        average_length=average_length,
        hub=("nyu-mll/glue", name),
    )


GLUE_TASKS = (
    _task("cola", ("sentence",), 11.67, "matthews", "accuracy", max_length=64),
    _task("sst2", ("sentence",), 25.16, max_length=64),
    _task("mrpc", _PAIR, 53.24, "accuracy", "f1"),
    _task("stsb", _PAIR, 31.47, "spearman", "pearson"),
    _task("qqp", ("question1", "question2"), 30.55, "accuracy", "f1"),
    _task("mnli", ("premise", "hypothesis"), 39.05),
    _task("qnli", ("question", "sentence"), 50.97),
    _task("rte", _PAIR, 64.59),
    _task("wnli", _PAIR, None),
)
