"""Samplers of azula. The orders of the Adams-Bashforth classes are options; the other claims are those of the methods' names."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from scoresde.audit import Sampler
from scoresde.audit.hosts.azula import sampler_of


def rows() -> Iterator[Sampler]:
    """Every sampler class.

    Raises:
        ImportError: azula is not installed.
    """
    azula = importlib.import_module("azula.sample")
    yield sampler_of(azula.DDPMSampler, order=1, calls_per_step=1)
    for eta in (0.0, 0.5, 1.0):
        yield sampler_of(azula.DDIMSampler, f"azula DDIM eta={eta}", 1, 1, eta=eta)
    yield sampler_of(azula.EulerSampler, order=1, calls_per_step=1)
    yield sampler_of(azula.HeunSampler, order=2, calls_per_step=2)
    for eta in (0.0, 0.5, 1.0):
        yield sampler_of(azula.ItoSampler, f"azula Ito eta={eta}", 1, 1, eta=eta)
    for corrections in (1, 2):
        yield sampler_of(azula.PCSampler, f"azula PC corrections={corrections}", None, 1 + corrections, corrections=corrections)
    for kind in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
        for order in (1, 2, 3, 4):
            yield sampler_of(getattr(azula, f"{kind}Sampler"), f"azula {kind} order={order}", order, 1)
