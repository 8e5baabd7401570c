"""Training times: the distribution of t in the loss.

With u uniform on [0, 1), t = 1 - (1 - t_min) u is uniform on [t_min, 1]. The loss of a model is the mean of L(t) over these times. Any other
density p(t) estimates the same mean if each value is multiplied by w(t) = uniform density / p(t):

    E_{t ~ uniform} L(t) = E_{t ~ p} w(t) L(t).

A time sampler is a function of `(sde, n, generator)`. A sampler that returns `Times(t, weight)` keeps the loss and changes the variance of its
estimate. A sampler that returns only times changes the loss: its density is then part of the weighting, as in EDM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from ..numerics.arrays import values_are_known
from ..numerics.brief import line, shown
from ..numerics.inputs import as_count, as_function, as_number, as_numbers
from ..numerics.random import as_generator, rand
from ..sde.base import SDE, as_time
from ..sde.vp import VPChain


class Times(NamedTuple):
    """Times and the weight of the loss at each, both float64 of shape `(n,)`."""

    t: Tensor
    weight: Tensor

    def __repr__(self) -> str:
        return line(type(self).__name__, *(f"{name}={shown(value)}" for name, value in self._asdict().items()))


TimeSampler = str | Callable[[SDE, int, Generator], Tensor | Times]


class TimeDensity(Protocol):
    """A time sampler with a known density."""

    def __call__(self, sde: SDE, n: int, generator: Generator) -> Tensor:
        """`n` times."""
        ...

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        """p(t), float64 like `t`; its integral over [t_min, t_max] is 1."""
        ...


def uniform(sde: SDE, n: int, generator: Generator) -> Tensor:
    """Independent uniform times on [t_min, 1]."""
    return 1 - (1 - sde.t_min) * rand(n, generator)


def stratified(sde: SDE, n: int, generator: Generator) -> Tensor:
    """One uniform time in each of n equal strata of [t_min, 1]: each is uniform, and the mean over a batch varies less."""
    strata = torch.arange(n, dtype=torch.float64, device=generator.device)
    return 1 - (1 - sde.t_min) * (strata + rand(n, generator)) / n


def low_discrepancy(sde: SDE, n: int, generator: Generator) -> Tensor:
    """n equally spaced times of [t_min, 1] with one random shift for all (Kingma et al. 2021, arXiv 2107.00630, appendix I.1)."""
    strata = torch.arange(n, dtype=torch.float64, device=generator.device)
    return 1 - (1 - sde.t_min) * (strata + rand(1, generator)) / n


def discrete(sde: SDE, n: int, generator: Generator) -> Tensor:
    """Uniform among a chain's own times 1/T, ..., 1 (Ho et al. 2020, algorithm 1).

    Raises:
        ValueError: `sde` is not a chain.
    """
    if not isinstance(sde, VPChain):
        raise ValueError(f"time_sampler='discrete' needs a discrete chain (VPSDE.from_betas), got {sde!r}")
    return ((rand(n, generator) * sde.steps).floor() + 1) / sde.steps


def _half_log_snr_slope(sde: SDE, t: Tensor) -> Tensor:
    """-d lambda/dt = g^2/(2 sigma^2)."""
    return 0.5 * (sde.diffusion(t) / sde.sigma(t)) ** 2


def _half_log_snr_range(sde: SDE) -> tuple[Tensor, Tensor]:
    """The smallest and the largest lambda, at t_max and at t_min."""
    return sde.half_log_snr(sde.t_max), sde.half_log_snr(sde.t_min)


@dataclass(frozen=True)
class UniformHalfLogSNR:
    """lambda uniform between lambda(t_max) and lambda(t_min).

    On every Gaussian path d lambda/dt = -g^2/(2 sigma^2), so that the density in t is proportional to g^2/sigma^2. That is the factor of the
    likelihood weighting on the squared noise error (Song et al. 2021, arXiv 2101.09258, section 5.1, with closed forms for three SDEs; here the
    inverse of lambda serves every path). In `Corrected` the factor and the density cancel, and only the noise error varies.
    """

    def __call__(self, sde: SDE, n: int, generator: Generator) -> Tensor:
        """`n` times, float64."""
        low, high = _half_log_snr_range(sde)
        u = rand(n, generator)
        # The inverse of lambda may lie outside the range by a rounding error.
        return sde.time(low.to(u.device) + (high - low).to(u.device) * u).clamp(sde.t_min, sde.t_max)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        """g^2/(2 sigma^2) / (lambda(t_min) - lambda(t_max))."""
        low, high = _half_log_snr_range(sde)
        return _half_log_snr_slope(sde, t) / (high - low).to(t.device)


@dataclass(frozen=True)
class LogNormal:
    """log(sigma/alpha) ~ N(mean, std^2), truncated at t_min and t_max (Karras et al. 2022, arXiv 2206.00364, table 1).

    EDM trains with this density and the weighting "edm", uncorrected: the density is part of its loss.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        as_number("mean", self.mean)
        as_number("std", self.std, above=0.0)

    def __call__(self, sde: SDE, n: int, generator: Generator) -> Tensor:
        """`n` times, float64."""
        low, high = self._cdf(sde)
        u = rand(n, generator)
        standard = torch.special.ndtri(low.to(u.device) + (high - low).to(u.device) * u)
        return sde.time(-(self.mean + self.std * standard)).clamp(sde.t_min, sde.t_max)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        """The normal density of log(sigma/alpha), times g^2/(2 sigma^2), over the probability between the truncations."""
        low, high = self._cdf(sde)
        normal = torch.distributions.Normal(self.mean, self.std).log_prob(-sde.half_log_snr(t)).exp()
        return normal * _half_log_snr_slope(sde, t) / (high - low).to(t.device)

    def _cdf(self, sde: SDE) -> tuple[Tensor, Tensor]:
        """The normal distribution function at t_min and t_max."""
        at_t_max, at_t_min = _half_log_snr_range(sde)
        return torch.special.ndtr((-at_t_min - self.mean) / self.std), torch.special.ndtr((-at_t_max - self.mean) / self.std)


@dataclass(frozen=True)
class Corrected:
    """The times of a sampler with a known density, weighted so that every mean equals the mean over uniform times on [t_min, t_max].

    t_max is 1 unless alpha(1) = 0. On a chain of one step t_min = t_max: every weight is then 1.
    """

    sampler: TimeDensity

    def __call__(self, sde: SDE, n: int, generator: Generator) -> Times:
        """`n` times and their weights."""
        t = self.sampler(sde, n, generator)
        if sde.t_min == sde.t_max:
            return Times(t, torch.ones_like(t))
        return Times(t, 1 / ((sde.t_max - sde.t_min) * self.sampler.density(sde, t)))


class Adaptive:
    """Times with a density proportional to the root mean square of the loss, and the weights that correct for it.

    [t_min, 1], or the set of a chain's own times, is split into bins. Bin b is drawn with probability

        p_b = (1 - floor) sqrt(E L_b^2) / sum_b' sqrt(E L_b'^2) + floor/bins,

    with E L_b^2 over the last `history` losses of the bin. Until every bin has `history` losses, all bins are equally likely (Nichol and
    Dhariwal 2021, arXiv 2102.09672, section 3.3, whose bins are the steps of the chain). Sample, then report the losses without the weight:

        t, weight = sampler(sde, len(x), generator)
        loss = losses.denoising(model, x, t=t)
        sampler.update(sde, t, loss)
        (weight * loss).mean().backward()

    Args:
        bins: number of bins; the T of a chain makes each step one.
        history: the number of stored losses of each bin.
        floor: the fraction of the draws that stays uniform, in (0, 1].
    """

    def __repr__(self) -> str:
        return line("Adaptive", f"bins={self.bins}", f"history={self.history}", f"floor={self.floor:g}")

    def __init__(self, bins: int = 20, history: int = 10, floor: float = 0.01) -> None:
        self.bins, self.history = as_count("bins", bins), as_count("history", history)
        self.floor = as_number("floor", floor, above=0.0, high=1.0)
        self._losses = torch.zeros(self.bins, self.history, dtype=torch.float64, device="cpu")
        self._counts = torch.zeros(self.bins, dtype=torch.long, device="cpu")

    @property
    def probabilities(self) -> Tensor:
        """p_b, float64 of shape `(bins,)`; the first bin is at t = 1, or at 1/T on a chain."""
        if bool((self._counts < self.history).any()):
            return torch.full((self.bins,), 1 / self.bins, dtype=torch.float64, device="cpu")
        root = self._losses.square().mean(1).sqrt()
        share = root / root.sum() if float(root.sum()) > 0 else torch.full_like(root, 1 / self.bins)
        return (1 - self.floor) * share + self.floor / self.bins

    def __call__(self, sde: SDE, n: int, generator: Generator) -> Times:
        """`n` times and their weights 1/(bins p_b)."""
        p = self.probabilities
        v = rand(n, generator).cpu()
        chosen = torch.searchsorted(p.cumsum(0), v, right=True).clamp(max=self.bins - 1)
        u = (chosen + rand(n, generator).cpu()) / self.bins
        t = ((u * sde.steps).floor() + 1) / sde.steps if isinstance(sde, VPChain) else 1 - (1 - sde.t_min) * u
        return Times(t.to(generator.device), (1 / (self.bins * p[chosen])).to(generator.device))

    def update(self, sde: SDE, t: Tensor, loss: Tensor) -> None:
        """Store the losses `(B,)` at the times `(B,)`.

        Raises:
            TypeError: no real numbers.
            ValueError: a loss that is not finite, a time outside [0, 1], or other shapes.
        """
        t, loss = as_time(t).cpu(), as_numbers("loss", loss).detach().cpu()
        if t.ndim != 1 or t.shape != loss.shape:
            raise ValueError(f"need one loss per time, got shapes {tuple(loss.shape)} and {tuple(t.shape)}")
        if not bool(loss.isfinite().all()):
            raise ValueError(f"a loss is not finite at t={t[~loss.isfinite()][0].item():g}")
        u = t - 0.5 / sde.steps if isinstance(sde, VPChain) else (1 - t) / (1 - sde.t_min)
        for b, value in zip((u * self.bins).long().clamp(0, self.bins - 1).tolist(), loss.tolist(), strict=True):
            self._losses[b, self._counts[b] % self.history] = value
            self._counts[b] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The stored losses, for `load_state_dict`."""
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the losses of a `state_dict`.

        Raises:
            TypeError: no state of such a sampler.
            ValueError: another number of bins or another history.
        """
        shapes = {}
        for name, own in self.state_dict().items():
            value = state.get(name) if isinstance(state, Mapping) else None
            if not isinstance(value, Tensor) or value.dtype != own.dtype:
                raise TypeError(f"state must be a state_dict() of Adaptive: it has no tensor {name!r} of {own.dtype}")
            shapes[name] = tuple(value.shape)
        if shapes != {"losses": (self.bins, self.history), "counts": (self.bins,)}:
            raise ValueError(f"the state is of {shapes['losses']} (bins, history), this sampler of {tuple(self._losses.shape)}")
        self._losses, self._counts = state["losses"].clone(), state["counts"].clone()


TIME_SAMPLERS: dict[str, Callable[[SDE, int, Generator], Tensor | Times]] = {
    "uniform": uniform,
    "stratified": stratified,
    "low_discrepancy": low_discrepancy,
    "discrete": discrete,
    "likelihood": Corrected(UniformHalfLogSNR()),
    "log_normal": LogNormal(),
}


def draw_times(sde: SDE, n: int, time_sampler: TimeSampler | None = None, generator: Generator | None = None) -> Times:
    """`n` training times and their weights. By default "discrete" on a chain and "uniform" elsewhere.

    Raises:
        TypeError: no sampler, or one that returns no numbers or a plain tuple.
        ValueError: an unknown name, "discrete" without a chain, or times or weights of another shape than `(n,)`; where the values are known
            (`values_are_known`) also a time outside [0, 1], or a weight that is infinite or negative.
    """
    n = as_count("n", n, 0)
    if time_sampler is None:
        time_sampler = "discrete" if isinstance(sde, VPChain) else "uniform"
    if isinstance(time_sampler, str):
        if time_sampler not in TIME_SAMPLERS:
            raise ValueError(f"time_sampler must be one of {', '.join(TIME_SAMPLERS)} or a function; got {time_sampler!r}")
        time_sampler = TIME_SAMPLERS[time_sampler]
    if not callable(time_sampler):
        raise TypeError(f"time_sampler must be one of {', '.join(TIME_SAMPLERS)} or a function; got {time_sampler!r}")
    drawn = as_function("time_sampler", time_sampler, 3)(sde, n, as_generator(generator))
    if isinstance(drawn, tuple) and not isinstance(drawn, Times):
        raise TypeError("time_sampler returned a tuple: for weights return losses.Times(times, weights)")
    t, weight = drawn if isinstance(drawn, Times) else (drawn, None)
    t = as_numbers("the result of time_sampler", t)
    weight = torch.ones_like(t) if weight is None else as_numbers("the weight of time_sampler", weight)
    for name, value in (("times", t), ("weights", weight)):
        if value.shape != (n,):
            raise ValueError(f"time_sampler must return {n} {name}, shape ({n},), got {tuple(value.shape)}")
    if values_are_known(weight) and not bool((weight.isfinite() & (weight >= 0)).all()):
        raise ValueError("time_sampler returned a weight that is infinite or negative")
    return Times(as_time(t, "time_sampler's t"), weight)


def sample_times(sde: SDE, n: int, time_sampler: TimeSampler | None = None, generator: Generator | None = None) -> Tensor:
    """The times of `draw_times` alone."""
    return draw_times(sde, n, time_sampler, generator).t
