"""The loss for networks that learn the variance of their steps (Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.1).

A network returns the data prediction D and, for each coordinate, a fraction f in [0, 1]. The step from t to s has the variance

    log v = f log v_beta + (1 - f) log v_posterior,      v_beta = beta_t,    v_posterior = q,

and is trained by

    L_hybrid = L_simple + w L_vlb,        L_simple = |noise error|^2,    L_vlb = T KL_t  (at t = 1/T: -T log p(x | z_1)),

where L_vlb sees D with its gradient stopped, so that it trains f alone.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..models.learned_variance import LearnedVariance
from ..numerics.arrays import as_float64, event_mean, event_sum, expand, values_are_known
from ..numerics.inputs import as_number, as_state
from ..numerics.random import as_generator
from ..sde.base import as_time
from ..sde.vp import VPChain
from .decoder import Decoder, gaussian_decoder, log_density
from .elbo import gaussian_kl, posterior_terms, variance_rule
from .times import TimeSampler, draw_times


def hybrid(
    model: LearnedVariance,
    x: Tensor,
    /,
    vlb_weight: float = 1e-3,
    time_sampler: TimeSampler | None = None,
    generator: Generator | None = None,
    *,
    decoder: Decoder = gaussian_decoder,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    **cond: object,
) -> Tensor:
    """L_hybrid of each sample, `(B,)`, a mean over the event's coordinates; L_vlb in nats per coordinate.

    Args:
        model: a model on a chain of at least two steps, whose network returns prediction and fraction.
        x: data, `(B, *event)`.
        vlb_weight: w; 0 is the simple loss.
        time_sampler: "discrete" by default, or another sampler of the times of a chain.
        generator: the source of times and noise.
        decoder: p(x | z_1), as in `elbo`.
        t: times `(B,)` of the chain, in place of random ones.
        noise: noise of the shape of `x` in place of random noise.
        **cond: passed to the network.

    Raises:
        TypeError: the model has no variance, `x` holds no real numbers, or another argument has a wrong type; names it.
        ValueError: the path is no chain of two or more steps, or a time is not a time of the chain.
    """
    if not hasattr(model, "data_and_fraction"):
        raise TypeError(f"model must be a LearnedVariance, got {type(model).__name__}")
    x, vlb_weight = as_state("x", x), as_number("vlb_weight", vlb_weight, 0.0)
    sde, generator = model.sde, as_generator(generator)
    if not isinstance(sde, VPChain) or sde.steps < 2:
        raise ValueError(f"learned variances need a chain of at least 2 steps (VPSDE.from_betas), got {sde!r}")
    if t is None:
        t, importance = draw_times(sde, len(x), time_sampler, generator)
        loss = hybrid(model, x, vlb_weight, None, generator, decoder=decoder, t=t, noise=noise, **cond)
        return expand(importance, loss) * loss
    t = as_time(t)
    i = (t * sde.steps).round()
    if values_are_known(t) and bool(((t * sde.steps - i).abs() > 1e-3).any() or (i < 1).any()):
        raise ValueError(f"times must be those of the chain, 1/{sde.steps}, ..., 1, got {t}")
    z, _ = sde.perturb(x, t, generator, noise)
    data, fraction = model.data_and_fraction(z, t, **cond)
    exact, predicted = as_float64(x), as_float64(data)
    # noise error = alpha/sigma data error
    snr = (2 * sde.half_log_snr(t)).exp()
    simple = event_mean((exact - predicted) ** 2) * snr.to(exact.device)

    first = i == 1
    # The posterior variance of the first step is 0, so that of the second replaces it (as in the paper).
    later = i.clamp(min=2)
    q, b = posterior_terms(sde, (later - 1) / sde.steps, later / sde.steps)
    beta = variance_rule(sde, "beta")((i - 1) / sde.steps, i / sde.steps)
    mean, f = predicted.detach(), as_float64(fraction)
    log_v = f * expand(beta.log(), f) + (1 - f) * expand(q.log(), f)
    kl = gaussian_kl(exact, mean, q, b, log_v.exp())
    nll = -event_sum(log_density(decoder, exact, mean, (0.5 * log_v).exp()))
    vlb = torch.where(first.to(kl.device), nll, kl) * (sde.steps / x.shape[1:].numel())
    return (simple + vlb_weight * vlb).to(torch.promote_types(x.dtype, torch.float32))
