"""The public keywords, their defaults and their help come from one declaration each."""

import inspect
import sys
from subprocess import run

import pytest

import trimformer
from trimformer import TrimformerError
from trimformer.cli.main import build_parser
from trimformer.options.budgets import BudgetOptions, SweepBudgetOptions
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.gguf import GgufOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.loading import LoadOptions
from trimformer.options.methods import MethodOptions, SweepMethodOptions
from trimformer.options.model import ModelOptions
from trimformer.options.option import declared_options
from trimformer.options.output import OutputOptions
from trimformer.options.polish import PolishOptions

SHARED = (ModelOptions, DataOptions, PolishOptions, ExecutionOptions)
TOPICS = {
    "prune": (BudgetOptions, MethodOptions, *SHARED),
    "sweep": (SweepBudgetOptions, SweepMethodOptions, *SHARED),
}
INPUTS = {"model", "processor", "dataset", "eval_dataset", "judge_dataset", "task", "latency", "gguf"}
FLAGS_OF = {
    "prune": (LoadOptions, *TOPICS["prune"], LatencyOptions, GgufOptions, OutputOptions),
    "sweep": (LoadOptions, *TOPICS["sweep"], GgufOptions),
    **dict.fromkeys(("evaluate", "export", "lut", "bench"), (LoadOptions,)),
}


@pytest.mark.parametrize("function", TOPICS)
def test_keywords_are_the_declared_options_with_their_defaults(function):
    keywords = inspect.signature(getattr(trimformer, function)).parameters
    declared = {
        name: default for topic in TOPICS[function] for name, default, option in declared_options(topic)
        if option.keyword
    }  # fmt: skip
    assert set(keywords) - INPUTS == set(declared)
    assert {name: keywords[name].default for name in declared} == declared


def test_load_takes_the_declared_options_with_their_defaults():
    keywords = inspect.signature(trimformer.load).parameters
    assert all(keywords[name].default == default for name, default, _ in declared_options(LoadOptions))


@pytest.mark.parametrize("function", TOPICS)
def test_the_docstring_explains_every_keyword_once(function):
    documentation = inspect.getdoc(getattr(trimformer, function))
    assert "{keywords}" not in documentation
    for name in inspect.signature(getattr(trimformer, function)).parameters:
        assert documentation.count(f"\n    {name}: ") == 1, name


@pytest.mark.parametrize("command", FLAGS_OF)
def test_every_option_for_the_command_line_has_a_flag(command, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    text = capsys.readouterr().out
    for topic in FLAGS_OF[command]:
        for name, _, option in declared_options(topic):
            # A smaller vocabulary would make the members of a sweep incomparable; exported files come from float32.
            if option.on_command_line and (command, name) not in (("sweep", "vocabulary"), ("export", "dtype")):
                flag = option.flags[0] if option.flags else "--" + name.replace("_", "-")
                assert f"  {flag}" in text, flag


@pytest.mark.parametrize(("word", "fits"), [("1.1", True), ("1.10x", True), ("12x", True), ("12", False), ("a", False)])
def test_a_large_ratio_of_perplexities_needs_its_x(word, fits, capsys):
    words = ["prune", "model", "--data", "rows", "--output", "out", "--max-perplexity", word]
    if fits:
        assert build_parser().parse_args(words).max_perplexity == float(word.removesuffix("x"))
        return
    with pytest.raises(SystemExit):
        build_parser().parse_args(words)
    assert "ratio" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, contextlib, io\n"
        "sys.argv = ['trimformer', 'prune', '--help']\n"
        "from trimformer.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['prune', '--help'])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)))"
    )
    result = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BudgetOptions(0.5, 12.0), "either a constraint or a latency"),
        (lambda: BudgetOptions(0.5, max_drop=1.0), "either a budget or the quality"),
        (lambda: BudgetOptions(max_drop=1.0, max_divergence=0.1), "two targets"),
        (lambda: BudgetOptions(latency_ms=3.0, metric="mac"), "needs the metric 'latency'"),
        (lambda: BudgetOptions(0.5, metric="flops"), "metric 'flops' is unknown"),
        (lambda: SweepBudgetOptions(), "either constraints or latencies"),
        (lambda: SweepBudgetOptions(0.5), "give a list of numbers"),
        (lambda: SweepBudgetOptions("0.5"), "give a list of numbers"),
        (lambda: SweepBudgetOptions([0.5, 0.7, 0.6]), "are not sorted"),
        (lambda: MethodOptions("no"), "method 'no' is unknown"),
        (lambda: MethodOptions(trimformer.Method), "give a preset's name or a trimformer.Method"),
        (lambda: MethodOptions("kprune", criterion="obs"), "does not accept --criterion"),
        (lambda: SweepMethodOptions("obs"), "give a list of names"),
        (lambda: LoadOptions(""), "model_type is ''; give a name"),
        (lambda: LoadOptions(dtype="int8"), "dtype 'int8' is unknown"),
        (lambda: ModelOptions("wide"), "layout 'wide' is unknown"),
        (lambda: LatencyOptions(backend="tpu"), "backend 'tpu' is unknown"),
        (lambda: LatencyOptions(any_table=1), "any_table is 1; give True or False"),
        (lambda: PolishOptions(polish_budget=None), "polish_budget is None"),
        (lambda: PolishOptions(polish_budget="9" * 400), "is neither forward passes"),
        (lambda: ExecutionOptions(device=None), "device is None"),
        (lambda: ExecutionOptions(calibration_dir=3), "calibration_dir is 3; give a path"),
        (lambda: DataOptions(task="mrpc", label_column="label"), "--task gives the columns"),
    ],
)
def test_a_wrong_value_is_one_sentence_at_the_door(call, message):
    with pytest.raises(TrimformerError) as caught:
        call()
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
