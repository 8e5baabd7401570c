"""Time grids: the N+1 strictly decreasing times that a solver steps along.

A grid is uniform in some clock u(t),

    u(t_n) = u(t_0) + n/(N-1) (u(t_min) - u(t_0)),   n = 0..N-1,      t_N = 0,

so that N steps call the network at N times from `t_start` to `sde.t_min` (`trailing` and `flow`: to one step of N before 0). The last step
goes to sigma = 0. With `t_end` > 0 all N+1 times are uniform in the clock, and no step goes to 0. Grids are float64 tensors on the CPU. Any
strictly decreasing tensor of times is a grid.

Every rule raises a TypeError or ValueError, by name, for `steps` below 1, `t_start` outside [t_min, 1] and `t_end` outside [0, t_start).
"""

from __future__ import annotations

import difflib
import inspect
import re
from functools import partial
from typing import Any

from .base import Grid, check
from .chain import ddpm
from .late import late
from .rules import beta, cubic, flow, half_log_snr, karras, power, quadratic, tangent, trailing, uniform
from .shifted import shifted

__all__ = [
    "GRIDS",
    "Grid",
    "beta",
    "check",
    "cubic",
    "ddpm",
    "describe",
    "flow",
    "get",
    "half_log_snr",
    "karras",
    "late",
    "names",
    "power",
    "quadratic",
    "shifted",
    "tangent",
    "trailing",
    "uniform",
]

GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "half_log_snr": half_log_snr,
    "karras": karras,
    "quadratic": quadratic,
    "cubic": cubic,
    "trailing": trailing,
    "flow": flow,
    "late": late,
    "shifted": shifted,
    "exponential": half_log_snr,  # sigma/alpha falls by one factor a step
    "tangent": tangent,
    "beta": beta,
    "ddpm": ddpm,
}

# What papers and other libraries call them, where the times are the same.
ALIASES = {
    "linear": "uniform",
    "time_uniform": "uniform",
    "time_quadratic": "quadratic",
    "quad": "quadratic",
    "log_snr": "half_log_snr",
    "logsnr": "half_log_snr",
    "lambda": "half_log_snr",
    "polyexponential": "half_log_snr",
}

# Names whose times are others here, and what comes close.
SIMILAR = {
    "linspace": "partial(grids.ddpm, spacing='linspace')",
    "leading": "partial(grids.ddpm, spacing='leading')",
    "ddim_uniform": "partial(grids.ddpm, spacing='leading')",
    "sgm_uniform": "partial(grids.trailing, power=1)",
    "simple": "partial(grids.trailing, power=1)",
    "normal": "'uniform'",
    "kl_optimal": "partial(grids.tangent, scale=1)",
    "cosine": "'tangent'",
    "edm": "'karras'",
}

# Every name, the longest first.
SPELLINGS = sorted((*GRIDS, *ALIASES), key=len, reverse=True)


def names() -> list[str]:
    """Every grid by its name."""
    return list(GRIDS)


def get(name: str) -> Grid:
    """The grid of that name; upper and lower case are the same. Options stand behind it as `describe` writes them: "trailing(power=2)".

    Raises:
        ValueError: no grid has that name, suggests one; or it has no such option.
    """
    word, options = _with_options(name)
    rule = GRIDS[spelled(word)]
    known = [option.name for option in inspect.signature(rule).parameters.values() if isinstance(option.default, float)]
    if wrong := [option for option in options if option not in known]:
        raise ValueError(f"the grid {word!r} has no option {wrong[0]!r}: {', '.join(known) or 'none'}")
    with_options: Any = partial(rule, **options) if options else rule  # type: ignore[arg-type]
    made: Grid = with_options
    return made


def _with_options(name: str) -> tuple[str, dict[str, float]]:
    """The word and the numbers of a name such as "trailing(power=2)"."""
    found = re.fullmatch(r"\s*([\w +-]+?)\s*\(([^()]*)\)\s*", name)
    if found is None:
        return name, {}
    pairs = [text.split("=") for text in found[2].split(",")]
    try:
        return found[1], {key.strip(): float(value) for key, value in pairs}
    except ValueError:
        raise ValueError(f"the options of a grid are name=number, as in 'trailing(power=2)', got {name!r}") from None


def spelled(name: str) -> str:
    """The name of a grid as `names` has it.

    Raises:
        ValueError: no grid has that name; suggests one.
    """
    word, options = _with_options(name)
    if options:
        get(name)  # raises
        return f"{spelled(word)}({', '.join(f'{key}={value}' for key, value in options.items())})"
    plain = name.lower().strip().replace("-", "_").replace(" ", "_")
    ours = ALIASES.get(plain, plain)
    if ours in GRIDS:
        return ours
    near = dict.fromkeys(repr(ALIASES.get(each, each)) for each in difflib.get_close_matches(plain, SPELLINGS, n=3))
    close = [SIMILAR[plain]] if plain in SIMILAR else list(near)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(GRIDS)}"
    raise ValueError(f"no grid is called {name!r}; {hint}")


def describe(rule: Grid) -> str:
    """The name of a rule, with the options that a `functools.partial` has set: "trailing(power=2.0)"."""
    if isinstance(rule, partial):
        shown = {name: describe(value) if callable(value) else repr(value) for name, value in rule.keywords.items()}
        options = [repr(value) for value in rule.args] + [f"{name}={value}" for name, value in shown.items()]
        return f"{describe(rule.func)}({', '.join(options)})"
    name: str = getattr(rule, "__name__", type(rule).__name__)
    return name
