"""Measurements of a trained model on held-out data: the loss along the path, two identities that a score satisfies, and densities."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from ...diagnostics.by_time import LossByTime, loss_by_time
from ...diagnostics.field import divergence_free_part, fokker_planck_residual
from ...diagnostics.range import SampleRange, sample_range
from ...likelihood.density import log_likelihood
from ...likelihood.dequantisation import Dequantised, bits_per_dim, dequantise
from ...losses.decoder import DiscretisedDecoder, gaussian_decoder
from ...losses.elbo import elbo, elbo_continuous
from ...losses.weightings import WeightingLike
from ...numerics.batching import index_cond
from ...numerics.random import cpu_generator
from ...sampling import sample
from ...sde.vp import VPChain
from ..foreign import Loaded

# Samples for the range, and network calls for each.
RANGE_SAMPLES, RANGE_CALLS = 64, 50
# Few samples for the residual and the asymmetry: they take second derivatives of the network.
FIELD_SAMPLES = 16
# The largest event whose divergence is computed exactly.
EXACT_SIZE = 16


class Field(NamedTuple):
    """Two errors of the model as a score, at one time. Both are 0 for the score of a path's density.

    Attributes:
        t: the time.
        residual: rms residual of the Fokker-Planck equation over the rms of ds/dt, or over f s where that is larger, with f the drift rate.
        asymmetry: |A|_F/|J|_F, with A the antisymmetric part of the Jacobian J. The Jacobian of a gradient is symmetric.
    """

    t: float
    residual: float
    asymmetry: float


class DensityEstimate(NamedTuple):
    """An estimate of the mean log density of the held-out samples, or of their mean log probability where the data have bins.

    Attributes:
        name: the method.
        nats: the mean over the samples.
        stderr: its standard error, in nats.
        bits_per_dim: the mean in bits per dimension, with its sign changed; None where the data have no bins.
        bits_stderr: its standard error.
    """

    name: str
    nats: float
    stderr: float
    bits_per_dim: float | None
    bits_stderr: float | None


@dataclass(frozen=True)
class Diagnosis:
    """The results of `diagnose`.

    Attributes:
        losses: the losses by time of the "training" and of the "held-out" samples.
        field: the errors of the score, one entry for each time.
        densities: the likelihood and its bounds.
        range: samples of the default with 50 network calls against the held-out ones.
        samples: number of held-out samples.
        given: names of the conditions of the densities.
    """

    losses: dict[str, LossByTime]
    field: list[Field]
    densities: list[DensityEstimate]
    range: SampleRange
    samples: int
    given: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All results as dictionaries, lists and numbers."""
        return {
            "samples": self.samples,
            "given": list(self.given),
            "densities": [row._asdict() for row in self.densities],
            "losses": {
                part: {
                    name: {key: value.tolist() for key, value in curve._asdict().items()}
                    for name, curve in losses._asdict().items()
                    if curve is not None
                }
                for part, losses in self.losses.items()
            },
            "field": [point._asdict() for point in self.field],
            "range": self.range._asdict(),
        }


def diagnose(
    model: Loaded,
    training: Tensor,
    held_out: Tensor,
    *,
    bins: int | None,
    weighting: WeightingLike = "noise",
    training_cond: dict[str, Tensor] | None = None,
    held_out_cond: dict[str, Tensor] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Diagnose a trained chain on training and on held-out samples.

    Args:
        model: a model whose path is a chain.
        training, held_out: samples, `(N, *event)` and `(M, *event)`, on the model's device.
        bins: number of levels from -1 to 1 of quantised data. The densities are then log probabilities of the bins, also in bits per
            dimension. None for real numbers, whose log density depends on the units.
        weighting: of the losses.
        training_cond, held_out_cond: keyword arguments for the network, tensors with one row a sample.
        seed: of the noise, times and probes.

    Raises:
        TypeError: the path is no chain.
    """
    chain = model.sde
    if not isinstance(chain, VPChain):
        raise TypeError(f"a diagnosis is of a chain (VPSDE.from_betas), got {chain!r}")
    cond: dict[str, Any] = held_out_cond or {}
    generator = cpu_generator(seed)
    times = _steps(chain, 16) / chain.steps
    losses = {
        "training": loss_by_time(model, training, times, weighting, generator=generator, **dict[str, Any](training_cond or {})),
        "held-out": loss_by_time(model, held_out, times, weighting, generator=generator, **cond),
    }
    densities = _densities(model, chain, held_out, bins, generator, cond)
    few = slice(0, FIELD_SAMPLES)
    field = _field(model, chain, held_out[few], generator, index_cond(cond, few, len(held_out)))
    drawn = torch.arange(RANGE_SAMPLES) % len(held_out)
    drawn_cond: dict[str, Any] = index_cond(cond, drawn, len(held_out))
    x = sample(model, (RANGE_SAMPLES, *held_out.shape[1:]), nfe=RANGE_CALLS, generator=generator, **drawn_cond)
    return Diagnosis(losses, field, densities, sample_range(x, held_out), len(held_out), tuple(cond))


def _steps(chain: VPChain, count: int) -> Tensor:
    """Steps 1..T, evenly spaced on the logarithmic scale: the loss and the score change fastest at small noise."""
    return torch.logspace(0, math.log10(chain.steps), count, dtype=torch.float64).round().unique()


def _field(model: Loaded, chain: VPChain, x: Tensor, generator: Generator, cond: dict[str, Any]) -> list[Field]:
    """The two errors of the score at about ten times, on noisy versions of `x`."""
    # Float64: the residual takes a difference in time.
    model, x, half = copy.deepcopy(model).double(), x.double(), 0.5 / chain.steps
    divergence: Literal["exact", "hutchinson"] = "exact" if x[0].numel() <= EXACT_SIZE else "hutchinson"
    found = []
    # Midway between two times of the chain: its rate jumps at those times.
    for t in (_steps(chain, 10).clamp(max=chain.steps - 1) / chain.steps + half).unique().tolist():
        z, _ = chain.perturb(x, t, generator)
        # Two independent estimates from random projections: their product is an unbiased estimate of the square.
        one, other = (
            fokker_planck_residual(model, z, t, divergence, projections=2, step=0.5 * half, generator=generator, **cond)
            for _ in range(2)
        )
        # Near the prior s = -z/sigma^2 does not change: f s, of which ds/dt is made, is the scale that does not vanish there.
        with torch.no_grad():
            drift = chain.drift_rate(torch.tensor(t, dtype=torch.float64)) * model.score(z, t, **cond)
        scale = torch.maximum(one.time_derivative.square().mean(), drift.square().mean())
        squared = (one.residual * other.residual).mean().clamp(min=0) / scale
        part = divergence_free_part(model, z, t, probes=4, generator=generator, **cond)
        found.append(Field(t, math.sqrt(float(squared)), float(part.share)))
    return found


def _densities(
    model: Loaded,
    chain: VPChain,
    x: Tensor,
    bins: int | None,
    generator: Generator,
    cond: dict[str, Any],
) -> list[DensityEstimate]:
    """Estimates by the probability flow, by the bound of the chain and by its limit for infinitely many steps."""
    event = tuple(x.shape[1:])

    def density(name: str, nats: Tensor) -> DensityEstimate:
        mean, stderr = float(nats.double().mean()), float(nats.double().std()) / math.sqrt(len(nats))
        if bins is None:
            return DensityEstimate(name, mean, stderr, None, None)
        # These are log probabilities already: no width of a bin is left to multiply by.
        return DensityEstimate(name, mean, stderr, bits_per_dim(mean, event, width=1), stderr / (math.prod(event) * math.log(2)))

    smoothing = float(chain.sigma(chain.t_min) / chain.alpha(chain.t_min))
    noisy = {"probability flow": Dequantised(x, x.new_zeros(len(x)))}
    if bins is not None:
        noisy = {
            "probability flow, uniform noise in the bins": dequantise(x, bins=bins, generator=generator),
            "probability flow, truncated normal noise": dequantise(
                x, bins=bins, kind="truncated_normal", std=smoothing, generator=generator
            ),
        }
    # The standard error covers the noise of the one probe. At this tolerance the steps err by less than 1e-3 nats a dimension.
    flow = {
        name: log_likelihood(model, data.x, divergence="hutchinson", rtol=1e-3, atol=1e-3, generator=generator, **cond).nats
        - data.log_density
        for name, data in noisy.items()
    }
    decoder = gaussian_decoder if bins is None else DiscretisedDecoder(-1, 1, bins)
    with torch.no_grad():
        bound = elbo(model, x, decoder=decoder, terms=min(100, chain.steps - 1), generator=generator, **cond)
        limit = elbo_continuous(model, x, samples=32, decoder=decoder, generator=generator, **cond)
    return [
        *(density(name, nats) for name, nats in flow.items()),
        density(f"ELBO of the {chain.steps} steps", bound.nats),
        density("ELBO of infinitely many steps", limit.nats),
    ]
