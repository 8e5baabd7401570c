"""docs/api.md and docs/api/PACKAGE.md from `__all__` and the docstrings. conf.py calls `write` in every build; no page is committed.

docs/api.md has one line for every package and every name, in the order of `PACKAGES`. The page of a package lists its names by the module that
defines them, after the docstring of that module, where the formulas are. A name that two packages export is described in one of them and linked
from the other.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = (
    "scoresde",
    "scoresde.sde",
    "scoresde.models",
    "scoresde.networks",
    "scoresde.grids",
    "scoresde.tableau",
    "scoresde.solvers",
    "scoresde.loops",
    "scoresde.losses",
    "scoresde.likelihood",
    "scoresde.diagnostics",
    "scoresde.tuning",
    "scoresde.report",
    "scoresde.sampling",
    "scoresde.audit",
    "scoresde.guidance",
    "scoresde.inverse",
    "scoresde.inverse.covariances",
    "scoresde.inverse.operators",
    "scoresde.sbi",
    "scoresde.data",
    "scoresde.train",
    "scoresde.numerics.random",
    "scoresde.interop.formats",
    "scoresde.interop.k_diffusion",
    "scoresde.interop.sbi",
    "scoresde.cli.report",
)
SOLVER_COLUMNS = ("order", "convergence_order", "stochastic", "calls_per_step", "single_call")
LOOP_COLUMNS = ("order", "stochastic", "calls_per_step")
INTRODUCTION = """# API

Every public name. A page for each package has the signatures, shapes, units and errors.
Shapes are `(B, *event)` with any event shape; a time is a number or a tensor of shape `(B,)`, from 0 (data) to 1 (noise).
Losses have shape `(B,)`, densities are in nats. Schedules and coefficients are float64; states have the dtype you give them.
"""


def public_names(package: str) -> dict[str, Any]:
    """The names of `__all__` with their objects; of a module without `__all__`, what it defines and does not begin with an underscore."""
    module = importlib.import_module(package)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == package and name[0] != "_"]
    return {name: getattr(module, name) for name in getattr(module, "__all__", own)}


def home(name: str, value: object) -> str:
    """The package that describes a public object: of those that export it, the one that defines it, else the innermost."""
    exporting = [package for package in PACKAGES if public_names(package).get(name) is value]
    return max(exporting, key=lambda package: (f"{origin(value)}.".startswith(f"{package}."), len(package)))


def origin(value: object) -> str:
    """The module that defines an object; "" for a plain value."""
    return getattr(value, "__module__", None) or ""


def directive(package: str, name: str, value: object) -> str:
    """The description of a public object; of a dictionary, its keys."""
    if inspect.isclass(value):
        fields = ", ".join(getattr(value, "_fields", ()))  # of a named tuple: their docstrings are "Alias for field number 0"
        return f".. autoclass:: {package}.{name}\n   :members:" + (f"\n   :exclude-members: {fields}" if fields else "")
    if inspect.isfunction(value):
        return f".. autofunction:: {package}.{name}"
    if isinstance(value, dict | tuple):
        return f".. py:data:: {package}.{name}\n\n   {', '.join(f'`{key}`' for key in value)}\n"
    return f".. autodata:: {package}.{name}\n   :no-value:"


def reference(name: str, value: object) -> str:
    """A link to the description of an object or of a module."""
    if isinstance(value, ModuleType):
        page = max((package for package in PACKAGES if f"{value.__name__}.".startswith(f"{package}.")), key=len)
        return f"[`{name}`](/api/{page}.md#{value.__name__.replace('.', '')})"
    role = "class" if inspect.isclass(value) else "func" if inspect.isfunction(value) else "data"
    return f"{{py:{role}}}`{name} <{home(name, value)}.{name}>`"


def summary(value: object) -> str:
    """The first sentence of a docstring; of data, what it is."""
    if isinstance(value, ModuleType) or inspect.isclass(value) or inspect.isfunction(value):
        paragraph = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
        sentence = re.split(r"(?<=[.])\s+(?=[A-Z`])", paragraph)[0]
        return re.sub("[,:]$", ".", sentence).replace("|", "\\|")
    if isinstance(value, dict):
        return f"A dictionary of {len(value)} names."
    return f"A tuple of {len(value)}." if isinstance(value, tuple) else "A value or a type."


def own_names(package: str) -> dict[str, Any]:
    """The public names that the page of a package describes."""
    names = public_names(package)
    return {name: value for name, value in names.items() if not isinstance(value, ModuleType) and home(name, value) == package}


def table(names: dict[str, Any]) -> list[str]:
    """Names with links and first sentences."""
    rows = [f"| {reference(name, value)} | {summary(value)} |" for name, value in names.items()]
    return ["", "| name | what it is |", "|---|---|", *rows, ""]


def package_page(package: str) -> str:
    """A package: its docstring, links to the names that are described elsewhere, and its own names, module by module."""
    own = own_names(package)
    modules: dict[str, list[str]] = {package: []}
    for name, value in own.items():
        module = origin(value) if origin(value).startswith(package) else package
        modules.setdefault(module, []).append(directive(package, name, value))
    lines = [f"# `{package}`", *block(f".. automodule:: {package}")]
    elsewhere = {name: value for name, value in public_names(package).items() if name not in own}
    lines += ["Described on other pages:", *table(elsewhere)] if elsewhere else []
    lines += tables(package)
    lines += ["On this page:", *table(own)] if len(own) > 1 else []
    for module, directives in modules.items():
        if module != package:
            lines += [f"\n## `{module}`", *block(f".. automodule:: {module}\n   :no-index:")]
        lines += block(*directives)
    return "\n".join(lines) + "\n"


def landing_page() -> str:
    """Every package with its first sentence, then every name with the same."""
    toctree = ["```{toctree}", ":hidden:", "", *(f"api/{package}" for package in PACKAGES), "```", ""]
    packages = {package: importlib.import_module(package) for package in PACKAGES}
    lines = [INTRODUCTION, *toctree, "| package | what it holds |", "|---|---|"]
    lines += [f"| [`{package}`](api/{package}.md) | {summary(module)} |" for package, module in packages.items()]
    for package in PACKAGES:
        names = public_names(package) if package == PACKAGES[0] else own_names(package)
        lines += [f"\n## Names of `{package}`", *table(names)]
    return "\n".join(lines) + "\n"


def block(*directives: str) -> list[str]:
    """Directives of reStructuredText in a Markdown page."""
    return ["\n```{eval-rst}", *directives, "```\n"] if directives else []


def tables(package: str) -> list[str]:
    """For solvers and loops: every short name, with what the solver says of itself."""
    from scoresde.loops import LoopSolver
    from scoresde.sampling import SOLVERS

    if package not in ("scoresde.solvers", "scoresde.loops"):
        return []
    of_loops = package == "scoresde.loops"
    columns = LOOP_COLUMNS if of_loops else SOLVER_COLUMNS
    lines = ["", f"| name | solver | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for name, solver in SOLVERS.items():
        if isinstance(solver, LoopSolver) == of_loops:
            cells = [cell(getattr(solver, column, None)) for column in columns]
            shown = re.sub(r"<function (\S+) at \w+>", r"\1", repr(solver))
            lines.append(f"| `{name}` | `{shown}` | {' | '.join(cells)} |")
    return lines


def cell(value: object) -> str:
    """A value in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def write(folder: Path) -> None:
    """Write the pages that have changed, and remove those of packages that are gone."""
    pages = {folder / "api.md": landing_page(), **{folder / "api" / f"{package}.md": package_page(package) for package in PACKAGES}}
    (folder / "api").mkdir(exist_ok=True)
    for path in set((folder / "api").glob("*.md")) - set(pages):
        path.unlink()
    for path, page in pages.items():
        if not path.exists() or path.read_text() != page:
            path.write_text(page)


if __name__ == "__main__":
    write(Path(__file__).parent)
