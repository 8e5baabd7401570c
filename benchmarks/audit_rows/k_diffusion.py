"""Samplers of k-diffusion. The claims are those of their names: dpmpp_2m has order 2, lms is given its order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import peers

from scoresde.audit import Levels, Sampler
from scoresde.audit.hosts.functions import HostModel, sampler_of
from scoresde.audit.sampler import Denoiser

# (name, options, order, calls a step)
ROWS: tuple[tuple[str, dict[str, Any], int | None, int | None], ...] = (
    ("euler", {}, 1, 1),
    ("euler", {"s_churn": 10.0}, None, 1),
    ("heun", {}, 2, 2),
    ("heun", {"s_churn": 10.0}, None, 2),
    ("dpm_2", {}, 2, 2),
    ("dpm_2", {"s_churn": 10.0}, None, 2),
    *(("lms", {"order": k}, k, 1) for k in (1, 2, 3, 4)),
    ("dpmpp_2m", {}, 2, 1),
    *(("euler_ancestral", {"eta": eta}, 1, 1) for eta in (1.0, 0.5, 0.0)),
    *(("dpm_2_ancestral", {"eta": eta}, 2, 2) for eta in (1.0, 0.5, 0.0)),
    *(("dpmpp_2s_ancestral", {"eta": eta}, 2, 2) for eta in (1.0, 0.0)),
    *(("dpmpp_sde", {"eta": eta}, 2, 2) for eta in (1.0, 0.0)),
    *(("dpmpp_2m_sde", {"solver_type": kind, "eta": eta}, 2, 1) for kind in ("midpoint", "heun") for eta in (1.0, 0.0)),
    *(("dpmpp_3m_sde", {"eta": eta}, 3, 1) for eta in (1.0, 0.0)),
)


def rows() -> Iterator[Sampler]:
    """Every sampler of its module.

    Raises:
        ImportError: it is not installed.
    """
    k = peers.k_diffusion()
    if k is None:
        raise ImportError("k_diffusion and torchdiffeq are not installed")
    for name, options, order, calls in ROWS:
        label = " ".join(["k-diffusion", name, *(f"{key}={value}" for key, value in options.items())])
        # Some have an option that is called order.
        yield sampler_of(partial(getattr(k, f"sample_{name}"), **options), label, order, calls)
    for eta in (0.0, 1.0):
        yield Sampler(f"k-diffusion dpm_fast eta={eta}", _fast(k, eta), 3, 1, exact_end=False, drawn_globally=True)
        yield Sampler(f"k-diffusion dpm_adaptive eta={eta}", _adaptive(k, eta), exact_end=False, drawn_globally=True, adaptive=True)


def _fast(k: Any, eta: float) -> Any:
    def run(denoiser: Denoiser, x: Any, levels: Levels, steps: int) -> Any:
        return k.sample_dpm_fast(HostModel(denoiser, levels), x, levels.low, levels.high, steps, disable=True, eta=eta)

    return run


def _adaptive(k: Any, eta: float) -> Any:
    def run(denoiser: Denoiser, x: Any, levels: Levels, steps: int) -> Any:
        return k.sample_dpm_adaptive(HostModel(denoiser, levels), x, levels.low, levels.high, disable=True, eta=eta)

    return run
