"""Old names keep working for two minor versions, with a DeprecationWarning. CHANGELOG.md states the rule; this file imports nothing of ours.

A moved module is found by a finder at the end of `sys.meta_path`, a renamed attribute by the `__getattr__` of its old package, a renamed
keyword by a decorator. Everything old is listed in the two tables below. To end the support of a name, delete its line.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Old module -> the modules that hold its names now.
MOVED_MODULES: dict[str, tuple[str, ...]] = {
    "analytic": ("models.analytic",),
    "cuda_graph": ("models.wrappers",),
    "data": ("train.data",),
    "default": ("sampling.default",),
    "experiment": ("train.experiment",),
    "learned_variance": ("models.learned_variance",),
    "likelihood.divergence": ("numerics.jacobian",),
    "model": ("models.score_model",),
    "prediction": ("sde.prediction", "models.base"),
    "random": ("numerics.random",),
    "report": ("cli.report",),
    "report.compare": ("cli.report.compare",),
    "report.diagnosis": ("cli.report.diagnosis",),
    "report.features": ("cli.report.features",),
    "report.page": ("cli.report.page",),
    "report.pictures": ("cli.report.pictures",),
    "solvers.adaptive_ode": ("numerics.dormand_prince", "loops.adaptive_ode"),
    "solvers.adaptive_sde": ("loops.adaptive_sde",),
    "solvers.bound": ("solvers.tuned", "numerics.files"),
    "solvers.calibration": ("tuning.calibration",),
    "solvers.executor": ("tableau.executor",),
    "solvers.fitting": ("tuning.fitting",),
    "solvers.free_first_step": ("solvers.composed",),
    "solvers.learned_ancestral": ("loops.learned_ancestral",),
    "solvers.loop": ("loops.base", "numerics.dormand_prince", "numerics.batching"),
    "solvers.multistep": ("tableau.multistep",),
    "solvers.refinement": ("tuning.gauss_newton",),
    "solvers.regression": ("tuning.regression",),
    "solvers.selection": ("tuning.selection",),
    "solvers.step_down": ("solvers.composed",),
    "solvers.storage": ("tuning.storage",),
    "solvers.tableau": ("tableau.tableau", "tableau.builder"),
    "solvers.teacher": ("tuning.reference",),
    "solvers.torchsde_adapter": ("loops.torchsde_adapter",),
    "training": ("train.trainer", "train.recipe", "train.checkpoint"),
}

# Old package and name -> where the object is now.
MOVED_NAMES: dict[str, dict[str, str]] = {}


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Say once for each place of use that `old` is called `new` now."""
    warnings.warn(f"{old} is now {new}; the old name goes in scoresde 0.3", DeprecationWarning, stacklevel=stacklevel)


def load(path: str) -> Any:
    """The object at `module:name`, both below scoresde."""
    module, name = path.split(":")
    return getattr(importlib.import_module(f"scoresde.{module}"), name)


def attribute(package: str, name: str) -> Any:
    """What a package's `__getattr__` returns for an old name.

    Raises:
        AttributeError: the package never had it.
    """
    path = MOVED_NAMES.get(package, {}).get(name)
    below = package.removeprefix("scoresde").lstrip(".")
    if path is not None:
        module, new = path.split(":")
        warn(f"{package}.{name}", f"scoresde.{module}.{new}", stacklevel=4)
        return load(path)
    if f"{below}.{name}".lstrip(".") in MOVED_MODULES:
        return importlib.import_module(f"{package}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def moved_names(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package."""

    def __getattr__(name: str) -> Any:
        return attribute(package, name)

    return __getattr__


def renamed_keywords(**old_to_new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that still takes keyword arguments by their old names."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in old_to_new.items():
                if old in kwargs:
                    warn(f"{old}= of {function.__name__}", f"{new}=")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapped

    return decorate


class _Loader(importlib.abc.Loader):
    """Makes an empty module that looks its names up in the new ones."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = modules

    def exec_module(self, module: ModuleType) -> None:
        warn(f"the module {module.__name__}", " and ".join(f"scoresde.{name}" for name in self.modules), stacklevel=2)
        new = [importlib.import_module(f"scoresde.{name}") for name in self.modules]

        def __getattr__(name: str) -> Any:
            for candidate in new:
                if hasattr(candidate, name):
                    return getattr(candidate, name)
            return attribute(module.__name__, name)

        module.__getattr__ = __getattr__  # type: ignore[method-assign]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the old modules; it is asked last."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        modules = MOVED_MODULES.get(fullname.removeprefix("scoresde.")) if fullname.startswith("scoresde.") else None
        if modules is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, _Loader(modules), is_package=fullname == "scoresde.report")


def install() -> None:
    """Let old modules be found."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
