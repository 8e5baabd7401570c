"""Variational bounds on the log-likelihood, in nats (Ho et al. 2020, arXiv 2006.11239, eq. 5; Bishop, section 20.2.2).

The generative chain p draws z at t = 1 from the prior and steps down a grid t_0 = 1 > t_1 > ... > t_N = 0. The step from t to s is the
posterior of the forward path with the data prediction D in place of x. The bound is

    log p(x) >= E log p(x | z_1)  -  sum_{steps} KL( q(z_s | z_t, x) || p(z_s | z_t) )  -  KL( q(z_T | x) || p(z_T) )
                reconstruction       diffusion                                             prior

Here z_1 is the state at the last time before 0. Let q be the variance of the posterior, b the coefficient of x in its mean (`sde.transitions`),
and v the variance of p. Then

    KL = 1/2 sum_coordinates [ q/v - 1 - log(q/v) + b^2 (x - D)^2 / v ].

In the limit of infinitely many steps the sum is an integral over the path (Kingma et al. 2021, arXiv 2107.00630, eq. 17; Song et al. 2021,
arXiv 2101.09258, theorem 3),

    1/2 int_{t_min}^{t_max} g^2 E | s(z_t, t) - grad_z log q(z_t | x) |^2 dt  =  int E | noise error |^2 d lambda,

which is d (t_max - t_min) times the denoising loss with the weighting "elbo", or d times the range of lambda times the simple loss with lambda
uniform.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ..models.base import Model, require_model
from ..numerics.arrays import as_float64, event_sum, expand, values_are_known
from ..numerics.brief import Brief
from ..numerics.inputs import as_count, as_function, as_numbers, as_state
from ..numerics.random import as_generator, rand
from ..sde.base import SDE, as_time
from ..sde.transitions import VarianceName, posterior_coefficients, step_variance, variance_exponent
from ..sde.vp import VPChain
from .decoder import Decoder, gaussian_decoder, log_density
from .denoising import denoising

# (s, t) -> the variance of p(z_s | z_t), float64 like s and t.
VarianceRule = Callable[[Tensor, Tensor], Tensor]
Variance = VarianceName | VarianceRule


@dataclass(frozen=True, repr=False)
class ELBO(Brief):
    """The terms of a bound in nats; all float64.

    Attributes:
        prior: KL(q(z_T | x) || p(z_T)), `(B,)`.
        diffusion: the KL of each step, `(B, N - 1)`, from small noise to large: on a chain column i is L_{i+1} of Ho et al. Sampled terms are
            `(B, terms)`, scaled so that their sum is unbiased.
        reconstruction: E log p(x | z_1), `(B,)`: a log density, of either sign, or a log probability for a discrete decoder.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def nats(self) -> Tensor:
        """The bound, log p(x) >= nats, `(B,)`."""
        return self.reconstruction - self.diffusion.sum(1) - self.prior


@dataclass(frozen=True, repr=False)
class ContinuousELBO(ELBO):
    """The bound of infinitely many steps.

    Attributes:
        stderr: standard error of `nats` over the draws of time and noise, `(B,)`.
    """

    stderr: Tensor


def optimal_variance(sde: SDE, noise_power: Callable[[float], float]) -> VarianceRule:
    """The variance with the largest bound, v = q + b^2 Var(x | z_t) (Bao et al. 2022, arXiv 2201.06503, theorem 1), for `variance=`.

    Args:
        sde: the path.
        noise_power: Gamma(lambda) = E|noise prediction|^2 / d, for example a `solvers.NoisePower`: Var(x | z) = sigma^2/alpha^2 (1 - Gamma).
    """

    def variance(s: Tensor, t: Tensor) -> Tensor:
        q, b = posterior_terms(sde, s, t)
        gamma = torch.tensor(
            [noise_power(value) for value in sde.half_log_snr(t).flatten().tolist()], dtype=torch.float64, device="cpu"
        )
        inside = (sde.sigma(t) / sde.alpha(t)) ** 2 * (1 - gamma.reshape(t.shape).clamp(max=1))
        # At alpha = 0 Gamma is 1 for data of any variance.
        return q + b**2 * torch.where(sde.alpha(t) > 0, inside, 0.0)

    return variance


def elbo(
    model: Model,
    x: Tensor,
    /,
    *,
    grid: Tensor | None = None,
    variance: Variance = "beta",
    decoder: Decoder = gaussian_decoder,
    terms: int | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> ELBO:
    """The variational bound of a chain of steps, term by term, in nats. Each term has its own draw of z_t.

    Call it under `torch.no_grad()` unless you differentiate the bound.

    Args:
        model: anything with the calls of a `ScoreModel`.
        x: data, `(B, *event)`.
        grid: strictly decreasing times from 1 to 0, for example `grids.uniform(sde, steps)`; by default the T steps of a chain.
        variance: v of p(z_s | z_t): "beta", the variance of the forward transition, which is beta_t on a chain; "posterior", q; a number u
            between, beta^u posterior^{1-u}; or a function `(s, t) -> v`, as `optimal_variance(sde, noise_power)` makes.
        decoder: p(x | z_1), a function `(x, mean, std) -> log p` of each coordinate: `gaussian_decoder` for continuous data or a
            `DiscretisedDecoder` for data on a grid. The mean is D. The standard deviation is sigma(t_1), which is sqrt(beta_1) on a chain, or
            sqrt(variance(0, t_1)) for a function `variance`.
        terms: the number of evaluated steps of the N - 1, drawn for each sample by strata; all by default. The sum stays unbiased.
        generator: the source of noise and steps.
        **cond: passed to the network.

    Returns:
        The terms. The network is called once for each term and once for the reconstruction.

    Raises:
        TypeError: `x` holds no real numbers, or another argument has a wrong type; names it.
        ValueError: no grid for a path that is no chain, a grid that does not fall from 1 to 0, terms outside 1..N-1, a variance that is not
            positive, or log densities of another shape than `x`.
    """
    require_model(model, "data")
    x, sde, generator = as_state("x", x), model.sde, as_generator(generator)
    times = _ascending(sde, grid)
    steps = len(times) - 2  # the decoder takes the last step
    terms = steps if terms is None else as_count("terms", terms, -math.inf)
    if not (0 < terms <= steps or terms == steps == 0):
        raise ValueError(f"terms must lie in 1..{steps}, got {terms}")
    rule = variance_rule(sde, variance)
    columns = []
    for j in range(terms):
        # Uniform in the j-th of `terms` equal parts of the steps; with all terms that is step j itself.
        u = rand(len(x), generator).cpu() if terms < steps else torch.zeros(len(x), dtype=torch.float64, device="cpu")
        i = ((j + u) * (steps / terms)).long().clamp(max=steps - 1) + 1
        s, t = times[i], times[i + 1]
        z, _ = sde.perturb(x, t, generator)
        q, b = posterior_terms(sde, s, t)
        kl = gaussian_kl(x, model.data(z, t, **cond), q, b, rule(s, t))
        columns.append(kl * (steps / terms))
    prior = _prior_kl(sde, x, times[-1])
    diffusion = torch.stack(columns, 1) if columns else prior.new_zeros(len(x), 0)
    std = rule(times[0], times[1]).sqrt() if callable(variance) else sde.sigma(times[1])
    return ELBO(prior, diffusion, _reconstruction(model, x, times[1], std, decoder, generator, cond))


def elbo_continuous(
    model: Model,
    x: Tensor,
    /,
    *,
    samples: int = 16,
    decoder: Decoder = gaussian_decoder,
    generator: Generator | None = None,
    **cond: Any,
) -> ContinuousELBO:
    """The bound of infinitely many steps between t_max and t_min, in nats, for any path. It needs no variance.

    With the exact score of the data the bound is tight, except for the prior at t_max and the decoder at t_min.

    Args:
        model: anything with the calls of a `ScoreModel`.
        x: data, `(B, *event)`.
        samples: draws of time and noise for each sample, with two network calls each. Times are uniform in lambda, in strata of two draws; the
            difference of the two gives the standard error.
        decoder: p(x | z) at t_min, as in `elbo`, with standard deviation sigma(t_min).
        generator: the source of times and noise.
        **cond: passed to the network.

    Returns:
        The terms. `diffusion` is `(B, samples)`; every column is an estimate of the integral divided by `samples`.

    Raises:
        TypeError: `x` holds no real numbers, or another argument has a wrong type; names it.
        ValueError: an odd number of samples, or none.
    """
    require_model(model, "data")
    if as_count("samples", samples, -math.inf) < 2 or samples % 2:
        raise ValueError(f"samples must be even and at least 2, got {samples}")
    x, sde, generator = as_state("x", x), model.sde, as_generator(generator)
    t_min, t_max = as_time(sde.t_min), as_time(sde.t_max)
    low, high = sde.half_log_snr(t_max), sde.half_log_snr(t_min)
    scale = x.shape[1:].numel() * float(high - low)
    diffusion, reconstruction = [], []
    for k in range(samples):
        u = (k // 2 + rand(len(x), generator).cpu()) / (samples // 2)
        t = sde.time(low + (high - low) * u).clamp(sde.t_min, sde.t_max)
        diffusion.append(scale * as_float64(denoising(model, x, "noise", generator=generator, t=t, **cond)))
        reconstruction.append(_reconstruction(model, x, t_min, sde.sigma(t_min), decoder, generator, cond))
    integral, log_p = torch.stack(diffusion, 1), torch.stack(reconstruction, 1)
    # Two draws a stratum: half their squared difference is the variance of each, without bias.
    draws = log_p - integral
    stderr = (draws[:, ::2] - draws[:, 1::2]).square().sum(1).sqrt() / samples
    return ContinuousELBO(_prior_kl(sde, x, t_max), integral / samples, log_p.mean(1), stderr)


def gaussian_kl(x: Tensor, data: Tensor, q: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """KL( N(m + b x, q) || N(m + b data, v) ) in nats, `(B,)`, float64.

    Args:
        x: data in the first mean, `(B, *event)`.
        data: data in the second mean, `(B, *event)`.
        q: variance of the first, a scalar or `(B,)`.
        b: coefficient of `x` and `data` in the means, a scalar or `(B,)`.
        v: variance of the second: a scalar, `(B,)`, or of the shape of `x`.
    """
    x, data = as_float64(x), as_float64(data)
    v = v if v.shape == x.shape and v.ndim > 1 else expand(v, x)
    ratio = expand(q, x) / v
    terms = ratio - 1 - ratio.log() + (expand(b, x) * (x - data)) ** 2 / v
    return 0.5 * event_sum(terms.expand_as(x))


def posterior_terms(sde: SDE, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """q and b: the variance of the posterior q(z_s | z_t, x) and the coefficient of x in its mean."""
    h = sde.half_log_snr(t) - sde.half_log_snr(s)
    _, b = posterior_coefficients(sde.alpha(s), sde.sigma(s), sde.sigma(t), h)
    return step_variance(sde.sigma(s), sde.sigma(t), h, 0.0), b


def variance_rule(sde: SDE, variance: Variance) -> VarianceRule:
    """The function `(s, t) -> v` of a word, a number or a function.

    Raises:
        TypeError: `variance` makes a function, as `optimal_variance` does, or no numbers.
        ValueError: `variance` is none of those that `elbo` accepts, or its result is not positive.
    """
    if callable(variance):
        rule = as_function("variance", variance, 2)

        def checked(s: Tensor, t: Tensor) -> Tensor:
            made = rule(s, t)
            if callable(made):
                raise TypeError("variance returned a function: give what optimal_variance(sde, noise_power) returns, not itself")
            v = as_numbers("the result of variance", made)
            if values_are_known(v) and not bool((v > 0).all()):
                raise ValueError(f"variance must return positive numbers, got {float(v.min()):g}")
            return v

        return checked
    u = variance_exponent(variance, "a function of (s, t)")
    return lambda s, t: step_variance(sde.sigma(s), sde.sigma(t), sde.half_log_snr(t) - sde.half_log_snr(s), u)


def _ascending(sde: SDE, grid: Tensor | None) -> Tensor:
    """The times from 0 to 1."""
    if grid is None:
        if not isinstance(sde, VPChain):
            raise ValueError(
                f"a bound needs steps: {sde!r} is no chain, so give grid=grids.uniform(sde, steps) or use elbo_continuous"
            )
        return torch.arange(sde.steps + 1, dtype=torch.float64, device="cpu") / sde.steps
    times = as_time(as_numbers("grid", grid), "grid").cpu()
    if times.ndim != 1 or len(times) < 2 or float(times[0]) != 1 or float(times[-1]) != 0 or not bool((times.diff() < 0).all()):
        raise ValueError(f"a grid must fall strictly from 1 to 0, got {grid}")
    return times.flip(0)


def _prior_kl(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """KL( N(alpha x, sigma^2) || N(0, prior_std^2) ) at time t, `(B,)`."""
    return gaussian_kl(x, torch.zeros_like(x), sde.sigma(t) ** 2, sde.alpha(t), as_float64(sde.prior_std**2))


def _reconstruction(
    model: Model, x: Tensor, t: Tensor, std: Tensor, decoder: Decoder, generator: Generator, cond: dict[str, Any]
) -> Tensor:
    """log p(x | z_t) with one draw of z_t, `(B,)`."""
    z, _ = model.sde.perturb(x, t, generator)
    x, data = as_float64(x), as_float64(model.data(z, t, **cond))
    return event_sum(log_density(decoder, x, data, expand(std, x)))
