"""Samplers of skrample, its Runge-Kutta tables among them.

The claims are the options `order` and, of tables, the orders in their names. Tables of more than 16 stages are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from scoresde.audit import Sampler
from scoresde.audit.hosts.skrample import sampler_of

MOST_STAGES = 16
# Where the name of a table has no order after that of its family.
ORDERS = {"RK1": 1, "RK2": 2, "RK3": 3, "RK4": 4, "RKE2": 2, "RKE3": 3, "RKE5": 5}
NAMED = {"Nystrom5": 5, "Butcher6": 6, "CV8": 8, "Stepanov10": 10, "Zhang10": 10}


def rows() -> Iterator[Sampler]:
    """Every sampler, order and table.

    Raises:
        ImportError: skrample is not installed, which needs Python 3.12.
    """
    yield from structured()
    yield from tables()
    functional = importlib.import_module("skrample.sampling.functional")
    for order in (2, 3, 4):
        # Its tables are of order 2, with as many stages.
        yield sampler_of(functional.DynasauRK(order=order), f"skrample DynasauRK order={order}", 2, order)
    for order in (2, 4, 6):
        yield sampler_of(functional.RKMoire(order=order), f"skrample RKMoire order={order}", adaptive=True)


def structured() -> Iterator[Sampler]:
    """The samplers that step by what they are given."""
    s, models = (importlib.import_module(f"skrample.sampling.{module}") for module in ("structured", "models"))
    for eta in (0, 1):
        yield sampler_of(s.Euler(stochasticity=eta), f"skrample Euler stochasticity={eta}", 1, 1)
    for kind, highest in (("DPM", 3), ("Adams", 4), ("UniP", 4), ("UniPC", 4)):
        for order in range(1, highest + 1):
            yield sampler_of(getattr(s, kind)(order=order), f"skrample {kind} order={order}", order, 1)
        for order in (2, 3):
            made = getattr(s, kind)(order=order, stochasticity=1)
            yield sampler_of(made, f"skrample {kind} order={order} stochasticity=1", order, 1)
    for order in (2, 3):
        for space in ("NoiseModel", "FlowModel", "VelocityModel"):
            made = s.DPM(order=order, derivative_transform=getattr(models, space)())
            yield sampler_of(made, f"skrample DPM order={order} in {space}", order, 1)
            made = s.Adams(order=order, derivative_transform=getattr(models, space)())
            yield sampler_of(made, f"skrample Adams order={order} in {space}", order, 1)
    for kind in ("UniP", "UniPC"):
        yield sampler_of(getattr(s, kind)(order=2, fast_solve=True), f"skrample {kind} order=2 fast_solve=True", 2, 1)
    yield sampler_of(s.UniPC(order=2, predictor=s.DPM(order=2)), "skrample UniPC order=2 predictor=DPM", 2, 1)
    yield sampler_of(s.SPC(), "skrample SPC", None, 1)
    yield sampler_of(s.SPC(adaptive=False), "skrample SPC adaptive=False", None, 1)


def tables() -> Iterator[Sampler]:
    """Its Runge-Kutta tables."""
    functional, tableaux = (importlib.import_module(f"skrample.sampling.{module}") for module in ("functional", "tableaux"))
    for table in (*tableaux.BUILTIN_TABLEAUX, *tableaux.BUILTIN_EMBEDDED_TABLEAU, *tableaux.GRAVEYARD):
        family, stages = type(table).__name__, len(table.tableau().stages)
        if stages <= MOST_STAGES:
            made = functional.RKUltra(order=stages, providers={stages: table})
            yield sampler_of(made, f"skrample RKUltra {family}.{table.name}", order_of(family, table.name), stages)
    for stochasticity in (0, 1):
        made = functional.RKUltra(order=2, stochasticity=stochasticity)
        yield sampler_of(made, f"skrample RKUltra order=2 stochasticity={stochasticity}", 2, 2)


def order_of(family: str, name: str) -> int:
    """The order in the name of a table: SSP.RK3_5 has 3 in 5 stages, and WSO.RK_5_3_3 has 3 in the place of the second number."""
    if family in ORDERS:
        return ORDERS[family]
    if family == "RKZ":
        return NAMED[name]
    digits = name.removeprefix("RK").strip("_").split("_")
    return int(digits[1] if family == "WSO" else digits[0])
