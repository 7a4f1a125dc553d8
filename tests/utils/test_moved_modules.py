"""Documented modules load under their earlier names, with a warning."""

import importlib
import sys

import pytest

from trimformer.utils.moved_modules import MOVED

NAMES = {
    **MOVED,
    "trimformer.batches.tasks": "trimformer.data.tasks",
    "trimformer.arch.masking": "trimformer.models.masking",
}


@pytest.mark.parametrize("earlier", NAMES)
def test_an_earlier_name_gives_the_module_of_today(earlier, monkeypatch):
    for name in [name for name in sys.modules if name in NAMES]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(DeprecationWarning, match=NAMES[earlier]):
        module = importlib.import_module(earlier)
    assert module is importlib.import_module(NAMES[earlier])
    assert module.__name__ == module.__spec__.name == NAMES[earlier]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("arch", "register_family"),
        ("batches.data", "find_splits"),
        ("batches.data", "read_splits"),
        ("batches.tasks", "find_task"),
    ],
)
def test_documented_imports_still_work(module, name):
    assert callable(getattr(importlib.import_module(f"trimformer.{module}"), name))


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("trimformer.nothing")
