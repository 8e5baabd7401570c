"""log p(x) by the probability flow, in nats.

Along dv/dtheta = F(v, theta) of `flow`, with v = z/rho and x = z/alpha = v/cos(theta) at the start, the density changes by

    d log p(v_theta) / dtheta = -tr dF/dv                                                          Chen et al. 2018, arXiv 1806.07366, theorem 1

so that with the angles theta_end and theta_1 of the times t_end and 1 and the prior pi = N(0, prior_std^2 I)

    log p(x) = log pi(z_1) + d log rho_1 + d log cos(theta_end) + int_{theta_end}^{theta_1} tr dF/dv dtheta.

The changes of scale from z to v are in closed form. The integrand tr dF/dv = (d cos(theta) - rho tr dD/dz)/sin(theta) is bounded at both ends:
its two terms, each infinite towards the data, cancel. The integral is part of the state, in nats per dimension, and under error control.

p is the density of the model at t_end, scaled to the data: the density of data smoothed by noise of standard deviation r =
sigma(t_end)/alpha(t_end). Where log p is smooth the difference is about r^2 (laplace log p + |grad log p|^2)/2. An exact model allows any
t_end > 0. A network should not be evaluated below the smallest time of its training, `sde.t_min`, which is the default.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Generator, Tensor

from ..models.base import Model, require_model
from ..models.training_mode import warn_if_training
from ..numerics.arrays import event_sum
from ..numerics.brief import line
from ..numerics.coefficients import apply
from ..numerics.dormand_prince import StepControl, integrate, rms
from ..numerics.inputs import as_count, as_state
from ..numerics.jacobian import Divergence, Exact, Hutchinson, HutchPlusPlus, Linearisation, differentiable_attention
from ..numerics.random import NoiseSource, noise_source
from ..sde.base import SDE
from ..sde.linear import LinearSDE, at_state
from .flow import at_least_float32, flows
from .ode import FlowODE


@dataclass(frozen=True, repr=False)
class Likelihood:
    """Densities of a batch.

    Attributes:
        nats: `(B,)` log densities; for K probes the mean over them.
        stderr: `(B,)` standard errors of `nats` over the probes: 0 for the exact divergence, NaN for one probe, whose error is unknown. The
            mean over a batch still has a standard error, from the spread of its B values.
        nfe: `(B,)` evaluations of the network. Each is followed by the backward passes of the divergence: d for "exact", one per probe for
            "hutchinson", three per probe for "hutch++".
        prior_mismatch: `(B,)` KL( q(z_1 | x) || prior ) in nats, see `prior_mismatch`.
        z: `(B, *event)` the states at t = 1, as from `encode`.
    """

    nats: Tensor
    stderr: Tensor
    nfe: Tensor
    prior_mismatch: Tensor
    z: Tensor

    def __repr__(self) -> str:
        n = len(self.nats)
        mean = float(self.nats.detach().double().mean()) if n else math.nan
        error = float(self.nats.detach().double().std()) / math.sqrt(n) if n > 1 else math.nan
        return line(
            "Likelihood",
            f"{n} samples",
            f"mean {mean:.5g} +- {error:.2g} nats",
            f"{float(self.nfe.double().mean()):.3g} network calls",
        )


def log_likelihood(
    model: Model,
    x: Tensor,
    /,
    *,
    divergence: Literal["exact", "hutchinson", "hutch++"] = "exact",
    probes: int = 1,
    probe_law: Literal["rademacher", "gaussian"] = "rademacher",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_end: float | None = None,
    steps: int | None = None,
    chunk: int = 16,
    batch_size: int | None = None,
    generator: Generator | None = None,
    seeds: Iterable[int] | None = None,
    grad: bool = False,
    **cond: object,
) -> Likelihood:
    """log p(x) of each sample of `x`, `(B, *event)`, in nats and in the model's units. `bits_per_dim` converts it for data in bins.

    Args:
        model: a `ScoreModel`, or anything with the same four calls.
        x: data of any event shape; not changed. Half precision is computed in float32.
        divergence: "exact" costs d backward passes per evaluation; "hutchinson" and "hutch++" are unbiased estimates from random probes.
        probes: K, the number of probes of each sample. They are drawn once and stay fixed along the ODE.
        probe_law: the distribution of the probes of "hutchinson": "rademacher" (signs; the smaller variance) or "gaussian". "hutch++" always
            takes Gaussian probes.
        rtol, atol: tolerances of a step for each sample alone, in v = z/sqrt(alpha^2 + sigma^2) and in the log density in nats per dimension.
        t_end: the time at which the path starts, from z = alpha(t_end) x; by default `model.sde.t_min`. See the docstring of the module.
        steps: the maximum number of tried steps.
        chunk: backward passes that are batched. Memory grows with `chunk` and not with d. Take 1 for a network that vmap cannot run.
        batch_size: samples that are computed at once; all by default. The result is the same.
        generator: one stream of probes for the batch.
        seeds: one integer per sample; the probes of sample i then depend on `seeds[i]` alone. With neither, every call differs.
        grad: make `nats` (and `z`) differentiable by `x`, the network and `cond`. The graph of all steps is kept, and
            scaled_dot_product_attention runs by its formula, because the fused kernels have no second derivative.
        **cond: passed to the network. A tensor with one row per sample is indexed with the samples of each call.

    Raises:
        ValueError: an unknown divergence or law, arguments that contradict each other, `t_end` outside (0, 1), a prediction undefined at t = 1.
        TypeError: `x` holds no real numbers, or another argument has a wrong type; names it.
        RuntimeError: called in inference mode, or with `grad` for a network that cannot be differentiated twice.
        StepLimitError: more than `steps` are needed.
        FloatingPointError: a prediction is not finite; the message names the time.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("a divergence needs derivatives, which torch.inference_mode() forbids: use torch.no_grad() instead")
    require_model(model, "data")
    warn_if_training(model)
    if note := getattr(model, "flow_note", ""):
        warnings.warn(f"this is the density of a flow, and {note}", UserWarning, stacklevel=2)
    chunk, probes = as_count("chunk", chunk), as_count("probes", probes)
    x, control = at_least_float32("x", x), StepControl.of(rtol, atol, steps)
    trace = _divergence(divergence, probes, probe_law, noise_source(generator, seeds, len(x)), x, model.sde)
    with torch.set_grad_enabled(grad), differentiable_attention() if grad else nullcontext():
        parts = [
            solve(flow, part, trace, control, chunk, grad) for flow, part in flows(model, x, x.shape[1:], t_end, batch_size, cond)
        ]
    return Likelihood(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Likelihood)))


def prior_mismatch(sde: SDE, x: Tensor) -> Tensor:
    """KL( q(z_1 | x) || N(0, s^2 I) ) of each sample in nats, `(B,)`, where s = `sde.prior_std`, in closed form:

        d/2 ( r - 1 - log r ) + alpha_1^2 |x|^2 / (2 s^2),      r = (sigma_1/s)^2,

    and x^T A^T Sigma^{-1} A x/2 at t = 1 on a `LinearSDE`.

    Its mean over the data is an upper bound of KL( q(z_1) || prior ). The mean log density of the data is too low by that divergence, even with
    the exact score. On a VE path the prior is centred at 0, so that data with another mean increase it.
    """
    x = as_state("x", x)
    if isinstance(sde, LinearSDE):
        # Both have the covariance Sigma(1), and A(1) x is measured by it.
        spread = sde.spread(torch.ones(1, dtype=torch.float64, device="cpu"))
        return 0.5 * event_sum(apply(at_state(1 / spread, x), sde.basis.to(x)).square())
    ratio = float(sde.sigma(1.0) / sde.prior_std) ** 2
    shift = float(sde.alpha(1.0) / sde.prior_std) ** 2
    return 0.5 * (x.shape[1:].numel() * (ratio - 1 - math.log(ratio)) + shift * event_sum(x.square()))


def _divergence(name: str, probes: int, law: str, noise: NoiseSource, x: Tensor, sde: SDE) -> Divergence:
    """The divergence of that name, with probes for the whole batch."""
    if law not in ("rademacher", "gaussian"):
        raise ValueError(f"probe_law must be 'rademacher' or 'gaussian', got {law!r}")

    def draw() -> Tensor:
        channels = sde.channels if isinstance(sde, LinearSDE) else 1
        return noise.draw((len(x), probes, channels * math.prod(x.shape[1:])), x.dtype, x.device)

    if name == "exact":
        if probes != 1:
            raise ValueError(f"probes={probes} means nothing to divergence='exact': use 'hutchinson' or 'hutch++'")
        return Exact()
    if name == "hutchinson":
        return Hutchinson(draw() if law == "gaussian" else torch.where(draw() < 0, -1.0, 1.0).to(x.dtype))
    if name == "hutch++":
        return HutchPlusPlus(draw(), draw())
    raise ValueError(f"divergence must be 'exact', 'hutchinson' or 'hutch++', got {name!r}")


def solve(flow: FlowODE, x: Tensor, divergence: Divergence, control: StepControl, chunk: int, grad: bool) -> Likelihood:
    """`Likelihood` of a part of the batch. The state is v and the integral of each column of the divergence, per dimension."""
    v, unchecked = flow.from_data(x), grad
    d = v.shape[1]

    def slope(theta: Tensor, y: Tensor, active: Tensor | None) -> Tensor:
        nonlocal unchecked
        at = Linearisation(lambda v: flow.slope(theta, v, active), y[:, :d], chunk, grad)
        trace = divergence.trace(at, flow.in_batch(active))
        if unchecked:
            at.require_second_derivatives(trace)
            unchecked = False
        return torch.cat([at.value, trace / d], 1)

    y, _, calls = integrate(
        slope,
        flow.start,
        flow.end,
        torch.cat([v, x.new_zeros(len(x), divergence.columns)], 1),
        control,
        time=flow.time,
        # The larger error counts: in a common mean the state of many dimensions would hide the error of the density.
        norm=lambda error: torch.maximum(rms(error[:, :d]), rms(error[:, d:])),
    )
    z, integrals = flow.to_noise(y[:, :d]), d * y[:, d:]
    nats = flow.model.sde.prior_log_prob(z) + flow.log_volume + integrals.mean(1)
    return Likelihood(
        nats, divergence.stderr(integrals.detach()), calls.to(x.device), prior_mismatch(flow.model.sde, x.detach()), z
    )
