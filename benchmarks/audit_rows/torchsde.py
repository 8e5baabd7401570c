"""Methods of torchsde on the reverse SDE and the probability-flow ODE. The claims are its `weak_order`s, rounded down."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from scoresde.audit import Sampler
from scoresde.audit.hosts.torchsde import sampler_of

METHODS = ("euler", "milstein", "srk", "midpoint", "heun", "euler_heun", "reversible_heun", "log_ode")
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("milstein", {"grad_free": True}),
    ("milstein", {"sde_type": "stratonovich"}),
    *((method, {"noise_type": "additive"}) for method in ("euler", "milstein", "srk", "midpoint")),
)


def rows() -> Iterator[Sampler]:
    """Every method on both equations, and the variants that a method has.

    Raises:
        ImportError: torchsde is not installed.
    """
    methods = importlib.import_module("torchsde._core.methods")
    for method, options in (*((method, {}) for method in METHODS), *VARIANTS):
        order = int(methods.select(method, options.get("sde_type", "ito")).weak_order)
        label = " ".join(["torchsde", method, *(f"{key}={value}" for key, value in options.items())])
        yield sampler_of(method, label, order, **options)
    for method in METHODS:
        yield sampler_of(method, f"torchsde {method} ode", int(methods.select(method, "ito").weak_order), equation="ode")
