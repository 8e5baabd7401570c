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
    "default": ("sampling.default",),
    "experiment": ("train.experiment",),
    "learned_variance": ("models.learned_variance",),
    "likelihood.divergence": ("numerics.jacobian",),
    "model": ("models.score_model",),
    "prediction": ("sde.prediction", "models.base"),
    "random": ("numerics.random",),
    "report.compare": ("cli.report.compare",),
    "report.diagnosis": ("cli.report.diagnosis",),
    "report.features": ("report.sums", "cli.report.features"),
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
    "solvers.langevin": ("solvers.annealed_langevin",),
    "solvers.multistep": ("tableau.multistep_form",),
    "solvers.refinement": ("tuning.gauss_newton",),
    "solvers.regression": ("tuning.regression",),
    "solvers.selection": ("tuning.selection",),
    "solvers.step_down": ("solvers.composed",),
    "solvers.storage": ("tuning.storage",),
    "solvers.tableau": ("tableau.tableau", "tableau.builder"),
    "solvers.teacher": ("tuning.reference",),
    "solvers.torchsde_adapter": ("loops.torchsde_adapter",),
    "train.data": ("data",),
    "train.images": ("data.images",),
    "training": ("train.trainer", "train.recipe", "train.checkpoint"),
}

# Old module -> old name -> where the object is now, as "module:name".
_LOOPS = (
    "AdaptiveLoop",
    "AdaptiveODE",
    "GottaGoFast",
    "GridLoop",
    "LearnedAncestral",
    "LoopSolver",
    "PredictorCorrector",
    "TorchSDE",
)
_TUNED = {
    "FittedSolver": "tuning:FittedSolver",
    "Ladder": "tuning:Cascade",
    "Ranked": "tuning:Ranked",
    "Rung": "tuning:Level",
    "Selected": "tuning:Selected",
    "Teacher": "tuning:ReferenceSolution",
    "Tolerance": "tuning:CascadeSolver",
    "load_solver": "tuning:load_solver",
    "teach": "tuning:solve_reference",
}
_TABLES = {
    "Callback": "tableau:Callback",
    "Multistep": "tableau:Multistep",
    "Point": "tableau:GridPoint",
    "Row": "tableau:Row",
    "Rows": "legacy:Rows",
    "Run": "tableau:Run",
    "Tableau": "tableau:Tableau",
    "multistep": "tableau:multistep",
    "points": "tableau:grid_points",
    "run": "tableau:run",
}
_SDE = {
    "ReverseSDE": "legacy:ReverseSDE",
    "Time": "numerics.arrays:Time",
    "as_float64": "numerics.arrays:as_float64",
    "expand": "numerics.arrays:expand",
    "to_device": "numerics.arrays:to_device",
}
# `scoresde.report` was these before it became a package of its own.
_REPORT = (
    "CURVE_NFE",
    "CURVE_SOLVERS",
    "Classifier",
    "Comparison",
    "DensityEstimate",
    "Diagnosis",
    "Entry",
    "Field",
    "compare",
    "density_table",
    "diagnose",
    "diagnosis_markdown",
    "error_figure",
    "is_image",
    "markdown",
    "parse_entry",
    "save_diagnosis",
    "save_error_plot",
    "save_rows",
    "save_samples",
    "used",
)
_COMMANDS = ("compare", "diagnose", "fit", "sample", "train")
MOVED_NAMES: dict[str, dict[str, str]] = {
    "cli": {
        **{name: f"cli.commands.{name}:{name}" for name in _COMMANDS},
        "DEFAULT_ENTRIES": "cli.commands.compare:DEFAULT_ENTRIES",
        "DeviceOption": "cli.options:DeviceOption",
        "Run": "cli.options:RunFolder",
        "default_device": "cli.options:default_device",
        "to_device": "cli.options:usable_device",
    },
    "cli.report.features": {"frechet_distance": "report:frechet_distance"},
    "report": {**{name: f"cli.report:{name}" for name in _REPORT}, "Density": "cli.report:DensityEstimate"},
    "report.diagnosis": {"Density": "cli.report:DensityEstimate"},
    "solvers": {
        **{name: f"loops:{name}" for name in _LOOPS},
        **_TABLES,
        **_TUNED,
        "BoundSolver": "solvers.tuned:TunedSolver",
        "SOLVERS": "sampling:SOLVERS",
        "Schedule": "legacy:Schedule",
        "StepLimitError": "loops:StepLimitError",
    },
    "likelihood.flow": {
        "ProbabilityFlow": "likelihood.flow:AngleODE",
        "Tolerance": "numerics.dormand_prince:StepControl",
    },
    "losses": {
        "Density": "losses.times:TimeDensity",
        "TIME_SAMPLERS": "losses.times:TIME_SAMPLERS",
        "TimeSampler": "losses.times:TimeSampler",
        "UniformHalfLogSNR": "losses.times:UniformHalfLogSNR",
        "WEIGHTINGS": "losses.weightings:WEIGHTINGS",
        "WeightingLike": "losses.weightings:WeightingLike",
        "debiased": "losses.weightings:debiased",
        "discrete": "losses.times:discrete",
        "gaussian_decoder": "losses.decoder:gaussian_decoder",
        "gaussian_kl": "losses.elbo:gaussian_kl",
        "low_discrepancy": "losses.times:low_discrepancy",
        "posterior_terms": "losses.elbo:posterior_terms",
        "sample_times": "losses.times:sample_times",
        "stratified": "losses.times:stratified",
        "uniform": "losses.times:uniform",
        "variance_rule": "losses.elbo:variance_rule",
    },
    "losses.times": {"Density": "losses.times:TimeDensity"},
    "sde": _SDE,
    "sde.base": _SDE,
    "sde.custom": {"Schedule": "sde.custom:ScalarFunction"},
    "solvers.adams": {
        "ADAMS_BASHFORTH": "numerics.quadrature:ADAMS_BASHFORTH",
        "blend": "solvers.adams:adams_bashforth",
        "gauss_legendre": "numerics.quadrature:gauss_legendre",
        "lagrange": "numerics.quadrature:lagrange",
        "transfer": "solvers.adams:ddim_step",
    },
    "solvers.base": {
        "from_no_signal": "solvers.base:zero_snr_step",
        "interpolation_weights": "numerics.quadrature:interpolation_weights",
        "redrawn_from_no_signal": "solvers.base:zero_snr_transition",
    },
    "solvers.bound": {
        "BoundSolver": "solvers.tuned:TunedSolver",
        "read": "solvers.tuned:read_state",
        "scales": "sde.fingerprint:schedule_fingerprint",
        "write": "solvers.tuned:write_state",
    },
    "solvers.calibration": _TUNED,
    "solvers.exponential": {
        "adams_weights": "numerics.quadrature:adams_weights",
        "exponential_moments": "numerics.quadrature:exponential_moments",
    },
    "solvers.heun": {"stir": "solvers.heun:add_churn"},
    "solvers.langevin": {
        "LangevinCorrected": "solvers.composed:LangevinCorrected",
        "PredictorCorrector": "loops:PredictorCorrector",
        "langevin_step": "loops.predictor_corrector:langevin_step",
    },
    "solvers.loop": {"Schedule": "legacy:Schedule", "rows": "numerics.batching:index_cond"},
    "solvers.single_step": {"p_1": "numerics.quadrature:x_phi1", "p_2": "numerics.quadrature:x_phi2"},
    "solvers.tableau": _TABLES,
    "solvers.teacher": _TUNED,
    "training": {"read_checkpoint": "train.checkpoint:read_checkpoint", "write_checkpoint": "train.checkpoint:write_checkpoint"},
}


# Where what others look for in a module is here.
ELSEWHERE: dict[str, dict[str, str]] = {
    "": dict.fromkeys(("Trainer", "Recipe", "Experiment"), "scoresde.train.{}")
    | dict.fromkeys(("Guided", "FeynmanKac"), "scoresde.guidance.{}")
    | dict.fromkeys(("fit", "select", "calibrate"), "scoresde.solvers.{}")
    | {"from_diffusers": "scoresde.interop.diffusers.{}", "check": "scoresde.diagnostics.{}", "DDPM": "VPSDE.from_betas(betas)"},
    "losses": {"dsm": "losses.denoising", "ism": "losses.implicit", "ssm": "losses.sliced"},
    "solvers": dict.fromkeys(("ladder", "cascade"), "solvers.calibrate"),
}

# What to use in place of an object of `legacy`.
SUCCESSORS = {
    "legacy:ReverseSDE": "models.ReverseSDE(model, eta)",
    "legacy:Rows": "tableau.TableauBuilder",
    "legacy:Schedule": "sampling.GridPlan",
}


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that `old` is called `new` now; Python shows the warning once for each line of use."""
    warnings.warn(f"{old} is now {new}; the old name goes in scoresde 0.4", DeprecationWarning, stacklevel=stacklevel)


def load(path: str) -> Any:
    """The object at `module:name`, both below scoresde."""
    module, name = path.split(":")
    return getattr(importlib.import_module(f"scoresde.{module}"), name)


def attribute(module: str, name: str) -> Any:
    """What a module's `__getattr__` returns for an old name.

    Raises:
        AttributeError: the module never had it.
    """
    below = module.removeprefix("scoresde").lstrip(".")
    path = MOVED_NAMES.get(below, {}).get(name)
    if path is not None:
        warn(f"{module}.{name}", f"scoresde.{SUCCESSORS.get(path, path.replace(':', '.'))}", stacklevel=4)
        return load(path)
    if f"{below}.{name}".lstrip(".") in MOVED_MODULES:
        return importlib.import_module(f"{module}.{name}")
    hint = ": it is " + ELSEWHERE[below][name].format(name) if name in ELSEWHERE.get(below, {}) else ""
    raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")


def moved_names(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module."""

    def __getattr__(name: str) -> Any:
        return attribute(module, name)

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
    """Makes an empty module that finds its names in the new ones."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = modules

    def exec_module(self, module: ModuleType) -> None:
        warn(f"the module {module.__name__}", " and ".join(f"scoresde.{name}" for name in self.modules), stacklevel=3)
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
        return importlib.machinery.ModuleSpec(fullname, _Loader(modules))


def install() -> None:
    """Let old modules be found, and old names in the modules that are loaded and still there."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    for below in MOVED_NAMES:
        module = sys.modules.get(f"scoresde.{below}")
        if module is not None and not hasattr(module, "__getattr__"):
            module.__getattr__ = moved_names(module.__name__)  # type: ignore[method-assign]
