"""What a trained model does to data that it has not seen: losses along the path, the laws of a score, densities."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from ...diagnostics.by_time import LossByTime, loss_by_time
from ...diagnostics.field import divergence_free_part, fokker_planck_residual
from ...likelihood.density import log_likelihood
from ...likelihood.dequantisation import Dequantised, bits_per_dim, dequantise
from ...losses.elbo import DiscretisedDecoder, elbo, elbo_continuous, gaussian_decoder
from ...losses.weightings import WeightingLike
from ...models.score_model import ScoreModel
from ...sde.vp import VPChain

FIELD_SAMPLES = 16  # enough for a curve: these need second derivatives


EXACT_SIZE = 16  # the largest event whose divergence is taken exactly


class Field(NamedTuple):
    """How far the model is from being a score at one time.

    Attributes:
        t: the time.
        residual: rms residual of the Fokker-Planck equation over the rms of ds/dt.
        asymmetry: |A|_F/|J|_F, the share of the Jacobian that no gradient has.
    """

    t: float
    residual: float
    asymmetry: float


class Density(NamedTuple):
    """A log density, or for data in bins a log probability, of the held-out samples.

    Attributes:
        name: how it was got.
        nats: mean over the samples.
        stderr: its standard error.
        bits_per_dim: None where the data have no bins.
        bits_stderr: its standard error.
    """

    name: str
    nats: float
    stderr: float
    bits_per_dim: float | None
    bits_stderr: float | None


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        losses: of "training" and of "held-out" samples.
        field: one entry a time.
        densities: the likelihood and its bounds.
        samples: held-out samples used.
    """

    losses: dict[str, LossByTime]
    field: list[Field]
    densities: list[Density]
    samples: int

    def as_json(self) -> dict[str, Any]:
        """Everything, as lists and numbers."""
        return {
            "samples": self.samples,
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
        }


def diagnose(
    model: ScoreModel,
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
        model: its path is a chain.
        training, held_out: samples, `(N, *event)` and `(M, *event)`.
        bins: levels from -1 to 1 that the data lie on: log probabilities of the bins, and bits per dimension; None for real numbers, whose log
            density depends on the units.
        weighting: of the losses.
        training_cond, held_out_cond: what the network is told about each sample.
        seed: of everything random.

    Raises:
        TypeError: the path is no chain.
    """
    chain = model.sde
    if not isinstance(chain, VPChain):
        raise TypeError(f"a diagnosis is of a chain (VPSDE.from_betas), got {chain!r}")
    seen: dict[str, Any] = training_cond or {}
    unseen: dict[str, Any] = held_out_cond or {}
    generator = Generator().manual_seed(seed)
    times = _steps(chain, 16) / chain.steps
    losses = {
        "training": loss_by_time(model, training, times, weighting, generator=generator, **seen),
        "held-out": loss_by_time(model, held_out, times, weighting, generator=generator, **unseen),
    }
    densities = _densities(model, chain, held_out, bins, generator, unseen)
    some = {name: value[:FIELD_SAMPLES] for name, value in unseen.items()}
    return Diagnosis(losses, _field(model, chain, held_out[:FIELD_SAMPLES], generator, some), densities, len(held_out))


def _steps(chain: VPChain, count: int) -> Tensor:
    """Steps 1..T, evenly on the logarithmic scale: most happens at small noise."""
    return torch.logspace(0, math.log10(chain.steps), count, dtype=torch.float64).round().unique()


def _field(model: ScoreModel, chain: VPChain, x: Tensor, generator: Generator, cond: dict[str, Any]) -> list[Field]:
    model, x, half = copy.deepcopy(model).double(), x.double(), 0.5 / chain.steps  # float64, for the difference in time
    divergence: Literal["exact", "hutchinson"] = "exact" if x[0].numel() <= EXACT_SIZE else "hutchinson"
    found = []
    # Between the chain's times, where its rate jumps, and not below the smallest.
    for t in (_steps(chain, 10).clamp(max=chain.steps - 1) / chain.steps + half).unique().tolist():
        z, _ = chain.perturb(x, t, generator)
        # By random projections these are two independent estimates, whose product has no bias where a square has.
        one, other = (
            fokker_planck_residual(model, z, t, divergence, projections=2, step=0.5 * half, generator=generator, **cond)
            for _ in range(2)
        )
        squared = (one.residual * other.residual).mean().clamp(min=0) / one.time_derivative.square().mean()
        part = divergence_free_part(model, z, t, probes=4, generator=generator, **cond)
        found.append(Field(t, math.sqrt(float(squared)), float(part.share)))
    return found


def _densities(
    model: ScoreModel,
    chain: VPChain,
    x: Tensor,
    bins: int | None,
    generator: Generator,
    cond: dict[str, Any],
) -> list[Density]:
    """By the probability flow, and the bounds of the chain and of its limit."""
    event = tuple(x.shape[1:])

    def density(name: str, nats: Tensor) -> Density:
        mean, stderr = float(nats.double().mean()), float(nats.double().std()) / math.sqrt(len(nats))
        if bins is None:
            return Density(name, mean, stderr, None, None)
        # Log probabilities: the bins are in them already.
        return Density(name, mean, stderr, bits_per_dim(mean, event, width=1), stderr / (math.prod(event) * math.log(2)))

    smoothing = float(chain.sigma(chain.t_min) / chain.alpha(chain.t_min))
    noisy = {"probability flow": Dequantised(x, x.new_zeros(len(x)))}
    if bins is not None:
        noisy = {
            "probability flow, uniform noise in the bins": dequantise(x, bins=bins, generator=generator),
            "probability flow, truncated normal noise": dequantise(
                x, bins=bins, kind="truncated_normal", std=smoothing, generator=generator
            ),
        }
    # The noise of one probe is in the standard error; at this tolerance that of the steps is below 1e-3 nats a dimension.
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
