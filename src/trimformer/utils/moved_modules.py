"""Imports of modules under their earlier names: they give the module of today and warn."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Earlier names that examples and documentation used. They go in version 1.0; see CONTRIBUTING.md.
MOVED = {
    "trimformer.arch": "trimformer.models",
    "trimformer.batches": "trimformer.data",
    "trimformer.batches.data": "trimformer.data.splits",
    "trimformer.methods": "trimformer.options.methods",
    "trimformer.run": "trimformer.options.execution",
}


class _MovedModules(MetaPathFinder, Loader):
    """Finds modules, and submodules of packages, under their earlier names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if fullname in MOVED:
            return ModuleSpec(fullname, self, loader_state=MOVED[fullname])
        if package in MOVED:
            return ModuleSpec(fullname, self, loader_state=f"{MOVED[package]}.{name}")
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is now {spec.loader_state}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(spec.loader_state)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its own specification back; it has run already."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def accept_moved_modules() -> None:
    """Lets `import` find modules under their earlier names."""
    sys.meta_path.insert(0, _MovedModules())
