"""Score-matching losses: `(model, x) -> one value per sample`.

Denoising score matching (Vincent 2011; Ho et al. 2020, arXiv 2006.11239; Bishop, section 20.3.2). With z = alpha x + sigma eps,

    L(x) = lambda(t) | s(z, t) - grad_z log q(z | x) |^2 / d,        grad_z log q(z | x) = -eps/sigma,

a mean over the d coordinates of the event. For any other prediction a x + b eps the error is the score's times a known factor, so every
loss is evaluated in the network's own output, where it does not cancel, and weighted by that factor in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .prediction import Model, Prediction, conversion, direction
from .random import fresh_generator, rand
from .sde import SDE, Time, VPChain, as_time, expand

Weighting = str | Callable[[SDE, Tensor], Tensor]
TimeSampler = str | Callable[[SDE, int, Generator], Tensor]

# A weighting is a quantity whose squared error is taken, and a factor lambda(t) on it.
WEIGHTINGS: dict[str, tuple[Prediction, Callable[[SDE, Tensor], Tensor]]] = {
    "noise": ("noise", lambda sde, t: torch.ones_like(t)),
    "data": ("data", lambda sde, t: torch.ones_like(t)),
    "velocity": ("velocity", lambda sde, t: torch.ones_like(t)),
    "sigma2": ("score", lambda sde, t: sde.sigma(t) ** 2),
    "likelihood": ("score", lambda sde, t: sde.diffusion(t) ** 2),
}


def uniform(sde: SDE, n: int, generator: Generator) -> Tensor:
    """Independent uniform times on [t_min, 1]."""
    return 1 - (1 - sde.t_min) * rand(n, generator)


def stratified(sde: SDE, n: int, generator: Generator) -> Tensor:
    """One uniform time in each of n equal strata of [t_min, 1]: each is uniform, and the mean over a batch varies less."""
    strata = torch.arange(n, dtype=torch.float64, device=generator.device)
    return 1 - (1 - sde.t_min) * (strata + rand(n, generator)) / n


def discrete(sde: SDE, n: int, generator: Generator) -> Tensor:
    """Uniform among a chain's own times 1/T, ..., 1 (Ho et al. 2020, algorithm 1).

    Raises:
        ValueError: `sde` is no chain.
    """
    if not isinstance(sde, VPChain):
        raise ValueError(f"time_sampler='discrete' needs a discrete chain (VPSDE.from_betas), got {sde!r}")
    return ((rand(n, generator) * sde.steps).floor() + 1) / sde.steps


TIME_SAMPLERS: dict[str, Callable[[SDE, int, Generator], Tensor]] = {
    "uniform": uniform,
    "stratified": stratified,
    "discrete": discrete,
}


def sample_times(sde: SDE, n: int, time_sampler: TimeSampler | None = None, generator: Generator | None = None) -> Tensor:
    """`n` training times, float64. By default "discrete" on a chain and "uniform" elsewhere.

    Raises:
        ValueError: an unknown name, or "discrete" without a chain.
    """
    if time_sampler is None:
        time_sampler = "discrete" if isinstance(sde, VPChain) else "uniform"
    if isinstance(time_sampler, str):
        if time_sampler not in TIME_SAMPLERS:
            raise ValueError(f"time_sampler must be one of {', '.join(TIME_SAMPLERS)} or a function; got {time_sampler!r}")
        time_sampler = TIME_SAMPLERS[time_sampler]
    return time_sampler(sde, n, generator or fresh_generator())


def output_weight(sde: SDE, t: Time, prediction: Prediction, weighting: Weighting) -> Tensor:
    """The factor on the squared error of a network's own output that makes it the weighted loss; float64, like `t`.

    Raises:
        ValueError: an unknown weighting, or one that is infinite at some t (looked for on the CPU only).
    """
    if isinstance(weighting, str):
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)} or a function of (sde, t); got {weighting!r}")
        quantity, factor = WEIGHTINGS[weighting]
    else:
        quantity, factor = "score", weighting
    _, slope = conversion(sde, t, prediction, quantity)
    weight = factor(sde, as_time(t)) * slope**2
    if weight.device.type == "cpu" and not bool(weight.isfinite().all()):
        where = as_time(t).broadcast_to(weight.shape)[~weight.isfinite()].flatten()[0].item()
        raise ValueError(f"weighting {weighting!r} is not finite at t={where:g} for a network that predicts {prediction!r}")
    return weight


def denoising(
    model: Model,
    x: Tensor,
    weighting: Weighting = "noise",
    time_sampler: TimeSampler | None = None,
    generator: Generator | None = None,
    *,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    **cond: object,
) -> Tensor:
    """Denoising score matching over the path; one value per sample, a mean over the event's coordinates.

    Args:
        model: a `ScoreModel`, or anything with the same calls.
        x: data, `(B, *event)`.
        weighting: "noise": the simple loss of Ho et al., eq. 14, |noise error|^2, which is 1 for a network that predicts no noise;
            "data", "velocity": the squared error of those; "sigma2": lambda = sigma^2 on the score, the same as "noise";
            "likelihood": lambda = g^2 on the score (Song et al. 2021, arXiv 2101.09258); or a function `(sde, t) -> lambda(t)`
            on the score's squared error.
        time_sampler: "uniform" on [t_min, 1], "stratified", "discrete" (a chain's own times), or a function
            `(sde, n, generator) -> times`. By default "discrete" on a chain and "uniform" elsewhere.
        generator: where times and noise come from.
        t: times `(B,)` in place of random ones.
        noise: noise of the shape of `x` in place of random noise.
        **cond: reaches the network untouched.

    Returns:
        The loss of each sample, `(B,)`, at least in float32. Multiply by the event's size for the sum over coordinates.
    """
    generator = generator or fresh_generator()
    if t is None:
        t = sample_times(model.sde, len(x), time_sampler, generator)
    z, noise = model.sde.perturb(x, t, generator, noise)
    a, b = direction(model.sde, t, model.prediction)
    target = expand(a, x) * x + expand(b, x) * noise
    error = model.output(z, t, **cond) - target
    error = error.to(torch.promote_types(error.dtype, torch.float32))
    squared = (error**2).reshape(len(x), -1).mean(1)
    return expand(output_weight(model.sde, t, model.prediction, weighting), squared) * squared
