"""Eight linear SDEs over events of shape (1, 2, 3), and Gaussian data whose flow on them is known."""

from functools import cache

import torch

import scoresde as ss
from scoresde import analytic
from scoresde.numerics.coefficients import is_matrix
from scoresde.sde import DCT, CoefficientsLinearSDE, ScaledSDE
from scoresde.sde.magnus import propagators

from .conftest import generator

EVENT = (1, 2, 3)
MEAN, STD = 0.7, 0.6
POWERS = torch.tensor([1.0, 1.2, 1.5, 1.0, 1.2, 1.5], dtype=torch.float64)
SIGMAS = torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0, 4.0], dtype=torch.float64)


def own_times(t):
    return t[:, None] ** POWERS.to(t.device)


def exploding(t):
    """A variance-exploding path whose largest noise depends on the frequency."""
    sigma = SIGMAS * torch.expm1(3 * t[:, None]) / torch.expm1(torch.tensor(3.0, dtype=torch.float64))
    return torch.ones_like(sigma), sigma


def coupled(t):
    """A pair of channels, coupled and damped ever faster."""
    rate = 1 + 4 * t
    f = torch.tensor([[0.0, 2.0], [-2.0, -3.0]], dtype=torch.float64)
    return (rate[:, None, None] * f)[:, None]


def driven(t):
    rate = 1 + 4 * t
    q = torch.tensor([[0.0, 0.0], [0.0, 6.0]], dtype=torch.float64)
    return (rate[:, None, None] * q)[:, None]


@cache
def processes():
    square = torch.randn(6, 6, dtype=torch.float64, generator=generator())
    return {
        "blurring": ss.BlurringSDE(EVENT, blur=2.0, least=0.05),
        "coloured": ss.ColouredSDE.power_law(EVENT, 1.0),
        "ou": ss.OUSDE(square @ square.T / 6 + 0.3 * torch.eye(6), torch.linspace(0.6, 1.5, 6), event=EVENT),
        "own times": ss.TimesSDE(own_times),
        "own scales": ScaledSDE(exploding, DCT(2)),
        "cld": ss.CLD(),
        "hold": ss.HOLD(3),
        "own matrices": CoefficientsLinearSDE(coupled, driven, [0.1]),
    }


NAMES = ("blurring", "coloured", "ou", "own times", "own scales", "cld", "hold", "own matrices")
DIAGONAL, COUPLED = NAMES[:5], NAMES[5:]


def gaussian():
    """Data N(MEAN, STD^2), the same in every coordinate."""
    return analytic.GaussianMixture(torch.full((1, *EVENT), MEAN, dtype=torch.float64), torch.tensor([STD**2]))


def two_modes():
    means = torch.randn(2, *EVENT, dtype=torch.float64, generator=generator(3))
    square = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator(4))
    covariances = 0.1 * square @ square.mT + 0.05 * torch.eye(6, dtype=torch.float64)
    return analytic.GaussianMixture(means, covariances, torch.tensor([0.4, 0.6]))


def exact_flow(sde, z, t):
    """The probability flow of `gaussian` from the states `z` at 1 to t, in the basis: z - A m obeys a linear equation."""
    inside = sde.in_basis()
    mean = sde.basis.to(torch.full((1, *EVENT), MEAN, dtype=torch.float64))

    def rates(u):
        a, covariance, q = inside.signal(u), inside.covariance(u), inside.noise_rates(u)
        pull = torch.linalg.solve(covariance + STD**2 * a @ a.mT, q.mT).mT if is_matrix(a) else q / (covariance + STD**2 * a**2)
        return inside.drift_rates(u) + 0.5 * pull

    def log_rates(v):
        rate = rates(v.exp())
        return v.exp().reshape(-1, *(1,) * (rate.ndim - 1)) * rate

    ends = torch.tensor([1.0, t], dtype=torch.float64)
    carried = propagators(log_rates, ends[:1].log(), ends[1:].log(), 2000)
    first, last = (inside.times(inside.signal(at), mean) for at in (ends[:1], ends[1:]))
    return last + inside.times(carried, z - first)
