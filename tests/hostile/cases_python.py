"""Calls from Python with arguments that cannot be meant, each with words that its one sentence must contain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trimformer
from tests.commands import problem_rows
from trimformer import LatencyOptions, Method
from trimformer.costs.lookup_tables import LatencyTable

Call = Callable[[Any, Any, Path], Any]

ROWS = problem_rows("single_label", 12)


class Odd:
    """An object that no argument takes."""

    def __repr__(self) -> str:
        return "Odd()"  # without an address: test names must not change between processes


def prunes(**keywords: Any) -> Call:
    """A call of prune() with these keywords; `constraint` is 0.5 unless they name it."""
    return lambda model, tokenizer, _: trimformer.prune(
        model, tokenizer, ROWS, **{"constraint": 0.5, "device": "cpu", **keywords}
    )


def sweeps(**keywords: Any) -> Call:
    """A call of sweep() with these keywords; `constraints` is [0.5] unless they name it."""
    return lambda model, tokenizer, _: trimformer.sweep(
        model, tokenizer, ROWS, **{"constraints": [0.5], "device": "cpu", **keywords}
    )


_OF_BOTH: dict[str, list[Any]] = {
    "num_samples": ["8", 2.5, True, 0, [8], Odd()],
    "batch_size": [None, "8", 2.5, True, -1],
    "seed": [None, "0", 1.5, -1, True],
    "max_memory": [None, "8GB", -1, float("nan"), True],
    "neuron_multiple": [None, "32", 0],
    "latency": ["eager", 5, {}, LatencyOptions],
    "vocabulary": [5, 0.5, "", [], [5], [None], {"a": 1}, b"used", True, Odd()],
    "polish_budget": [None, 10, 10.0, "", "x", b"10x", "9" * 400 + "x", "0x"],
    "metric": ["", "time", 5, [], ["mac"], Odd()],
    "layout": ["", None, 5, ["plain"]],
    "text_column": [5, [], [5], "", [""]],
    "label_column": [5, [], ["a", "b"], ""],
    "device": [None, "", 5, "tpu9", "cuda:99"],
    "bf16": ["yes", 1, None],
    "polish_stoppable": ["yes", 1, None],
    "calibration_dir": [5, "", b"x", []],
    "task": ["sst2", 5, Odd()],
    "polish_data": [5, "text", ROWS],
}
_OF_PRUNE: dict[str, list[Any]] = {
    "constraint": ["0.5", [0.5], 0, 1.5, float("nan"), True, Odd()],
    "max_drop": ["1", -1, True, float("nan"), [1]],
    "max_divergence": ["1", 0, 1e-9, True],
    "method": [None, "", "best", 5, [], ["obs"], Method, {}, Odd()],
    "judge_dataset": [ROWS],
}
_OF_SWEEP: dict[str, list[Any]] = {
    "constraints": [0.5, "0.5", None, [], ["0.5"], [0.5, 0.5], {0.5}, [None], [[0.5]], [0.9, 0.5, 0.7], b"0.5"],
    "methods": [None, "obs", [], ["best"], ["obs", "obs"], 5, [5], [Method], [["obs"]], [Method()]],
}


# Words of the sentence where they are not the keyword.
_WORDS = {
    "polish_budget": "polish", "polish_data": "polish", "constraints": "constraint", "methods": "method",
}  # fmt: skip


def _cases(name: str, call: Callable[..., Call], values: dict[str, list[Any]]) -> dict[str, tuple[Call, str]]:
    return {
        f"{name}({keyword}={value!r:.40})": (call(**{keyword: value}), _WORDS.get(keyword, keyword))
        for keyword, wrong in values.items()
        for value in wrong
    }


def _masks(model: Any) -> list[torch.Tensor]:
    return [torch.ones(s.num_units) for s in trimformer.find_sublayers(model)]


_ELSEWHERE = LatencyTable({"attention": np.arange(5.0), "ffn": np.arange(41.0)}, 1.0, {})

_OTHERS: dict[str, tuple[Call, str]] = {
    "prune(a table without a latency)": (
        prunes(latency=LatencyOptions(table=_ELSEWHERE)), "table (--lut) has no effect on a budget of the metric 'mac'"
    ),
    "sweep(a table without a latency)": (
        sweeps(latency=LatencyOptions(table=_ELSEWHERE), metric="parameters"), "of the metric 'parameters'"
    ),
    "prune(neuron_multiple of kwon2022)": (
        prunes(neuron_multiple=8, method="kwon2022"), "neuron_multiple (--neuron-multiple) has no effect"
    ),
    "sweep(neuron_multiple of kprune)": (
        sweeps(neuron_multiple=8, methods=["kprune", "magnitude"]), "neuron_multiple (--neuron-multiple) has no effect"
    ),
    "prune(latency_ms='5')": (prunes(constraint=None, latency_ms="5"), "latency"),
    "prune(both budgets)": (prunes(latency_ms=5.0), "constraint"),
    "prune(polish_data, label-free method)": (prunes(polish_data=ROWS), "polish"),
    "prune(polish_data=5)": (prunes(method="obs-polish", polish_data=5), "polish_data"),
    "prune(polish_data=text)": (prunes(method="obs-polish", polish_data="a film"), "polish_data"),
    "LatencyOptions(any_table)": (lambda *_: LatencyOptions(any_table=True), "any_table"),
    "LatencyOptions(table=5)": (lambda *_: LatencyOptions(table=5), "table"),
    "LatencyOptions(backend='fast')": (lambda *_: LatencyOptions(backend="fast"), "backend"),
    "LatencyOptions(batch_size='8')": (lambda *_: LatencyOptions(batch_size="8"), "batch_size"),
    "Method(objective)": (lambda *_: Method("magnitude", "uniform", "none", "labels"), "objective"),
    "Method('best')": (lambda *_: Method("best"), "criterion"),
    "Method(None)": (lambda *_: Method(None), "criterion"),
    "Method([])": (lambda *_: Method([]), "criterion"),
    "Method(polish='yes')": (lambda *_: Method(polish="yes"), "polish"),
    **{
        f"load({path!r})": (lambda *_, path=path: trimformer.load(path), "model")
        for path in (None, 5, b"model", [], Odd(), "", "./nowhere", torch.ones(2))
    },
    **{
        f"save(path={path!r})": (lambda m, t, _, path=path: trimformer.save(m, t, path), "output")
        for path in (None, 5, [], "", b"out")
    },
    "save(model=None)": (lambda m, t, f: trimformer.save(None, t, f / "o"), "model"),
    "save(model='bert')": (lambda m, t, f: trimformer.save("bert", t, f / "o"), "model"),
    "save(model=module)": (lambda m, t, f: trimformer.save(torch.nn.Linear(2, 2), t, f / "o"), "model"),
    "save(processor=None)": (lambda m, t, f: trimformer.save(m, None, f / "o"), "processor"),
    "save(processor='bert')": (lambda m, t, f: trimformer.save(m, "bert", f / "o"), "processor"),
    "save(standalone='yes')": (lambda m, t, f: trimformer.save(m, t, f / "o", standalone="yes"), "standalone"),
    "save(standalone=1)": (lambda m, t, f: trimformer.save(m, t, f / "o", standalone=1), "standalone"),
    **{
        f"shrink(masks={masks!r:.20})": (lambda m, *_, masks=masks: trimformer.shrink(m, masks), "mask")
        for masks in (None, 5, "masks", [], [None], [1, 2, 3, 4], torch.ones(2, 2), {})
    },
    "shrink(lists)": (lambda m, *_: trimformer.shrink(m, [x.tolist() for x in _masks(m)]), "mask"),
    "shrink(sparse)": (lambda m, *_: trimformer.shrink(m, [x.to_sparse() for x in _masks(m)]), "mask"),
    "shrink(meta)": (lambda m, *_: trimformer.shrink(m, [x.to("meta") for x in _masks(m)]), "mask"),
    "shrink(None)": (lambda *_: trimformer.shrink(None, []), "model"),
    "shrink('bert')": (lambda *_: trimformer.shrink("bert", []), "model"),
    **{
        f"find_sublayers({model!r:.20})": (lambda *_, model=model: trimformer.find_sublayers(model), "model")
        for model in (None, "bert", 5, [])
    },
    **{
        f"model_card({result!r:.20})": (lambda *_, result=result: trimformer.model_card(result), "result")
        for result in (None, "results.json", 5, {}, [])
    },
    **{
        f"trim_vocabulary(texts={texts!r:.20})": (
            lambda m, t, _, texts=texts: trimformer.trim_vocabulary(m, t, texts), "text",
        )
        for texts in (None, 5, "a film", [], [5], [None], b"x", {"a": 1})
    },
    "trim_vocabulary(None)": (lambda m, t, _: trimformer.trim_vocabulary(None, t, ["a"]), "model"),
    "trim_vocabulary('bert')": (lambda m, t, _: trimformer.trim_vocabulary("bert", t, ["a"]), "model"),
    "trim_vocabulary(tokenizer=None)": (lambda m, t, _: trimformer.trim_vocabulary(m, None, ["a"]), "tokenizer"),
    "trim_vocabulary(tokenizer='b')": (lambda m, t, _: trimformer.trim_vocabulary(m, "b", ["a"]), "tokenizer"),
    "prune(model=None)": (lambda m, t, _: trimformer.prune(None, t, ROWS, 0.5), "model"),
    "prune(model=class)": (lambda m, t, _: trimformer.prune(type(m), t, ROWS, 0.5), "model"),
    "prune(processor=None)": (lambda m, t, _: trimformer.prune(m, None, ROWS, 0.5), "tokenizer"),
    "prune(processor=5)": (lambda m, t, _: trimformer.prune(m, 5, ROWS, 0.5), "tokenizer"),
    "register_family(5)": (lambda *_: trimformer.register_family(5, lambda layer: iter(())), "class"),
    "register_family('X', 5)": (lambda *_: trimformer.register_family("X", 5), "X"),
}  # fmt: skip

CASES = {
    **_cases("prune", prunes, _OF_BOTH | _OF_PRUNE),
    **_cases("sweep", sweeps, {key: values[:3] for key, values in _OF_BOTH.items()} | _OF_SWEEP),
    **_OTHERS,
}
