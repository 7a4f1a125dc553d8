"""Griffe extension: takes docstrings that are completed at import time, such as that of `trimformer.prune`."""

import inspect
from importlib import import_module
from typing import Any

from griffe import Extension, Function


class RuntimeDocstrings(Extension):
    """Replaces docstrings with the placeholder `{keywords}` by those of the imported function."""

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        """Imports the function if its docstring has the placeholder."""
        if func.docstring and "{keywords}" in func.docstring.value:
            function = getattr(import_module(func.module.path), func.name)
            func.docstring.value = inspect.getdoc(function) or ""
