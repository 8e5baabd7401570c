"""Posterior networks of the package sbi as score models, so that every solver draws from p(theta | x_o).

An estimator of sbi has a path theta_t = a(t) theta + s(t) eps over times of its own, from the parameters at t = 0 to noise.

    NPSE, "vp"        a = e^{-B/2},  s^2 = 1 - e^{-B}          our VPSDE, prediction "score"
    NPSE, "subvp"     a = e^{-B/2},  s = 1 - e^{-B}            our SubVPSDE, prediction "score"
    NPSE, "ve"        a = 1,  s = s_min (s_max/s_min)^t        our EDM path at equal s, prediction "score"
    FMPE              a = 1 - t,  s = t + c                    RectifiedFlow at equal s/a: u = (t + c)/(1 + c), z_u = theta_t/(1 + c);
                                                               prediction "velocity", E[eps - theta]

The last two paths end at t = 0 with s > 0, ours with sigma = 0: the last step goes on to the data prediction.

    model = posterior_model(posterior, x_o)
    theta = sample_posterior(model, 1000, nfe=10)

sbi itself is not imported. What an estimator is, is read from its attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Generator, Tensor, nn

from ..models.score_model import ScoreModel
from ..numerics.inputs import as_count, as_tensor
from ..numerics.random import noise_source
from ..sampling.sample import sample
from ..sde.base import SDE
from ..sde.families import EDM, RectifiedFlow, SubVPSDE
from ..sde.prediction import Prediction
from ..sde.vp import VPSDE

__all__ = ["PosteriorModel", "posterior_model", "sample_posterior"]

# Rounds of draws before samples outside the prior are taken for a network that leaks.
ROUNDS = 100


class Estimator(Protocol):
    """What is read of a vector field estimator of sbi."""

    input_shape: torch.Size
    condition_shape: torch.Size
    t_min: float
    t_max: float
    mean_base: Tensor
    std_base: Tensor

    def __call__(self, input: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        """The score, or the velocity."""
        ...

    def mean_t_fn(self, times: Tensor) -> Tensor:
        """a(t)."""
        ...

    def std_fn(self, times: Tensor) -> Tensor:
        """s(t)."""
        ...


class Path(NamedTuple):
    """How an estimator's path lies on one of ours.

    Attributes:
        sde: our path.
        prediction: what the estimator returns.
        scale: theta_t = scale z.
        time: the estimator's time at each of our times.
    """

    sde: SDE
    prediction: Prediction
    scale: float
    time: Any


class LinearTime(NamedTuple):
    """t = slope u + offset, not below `least`."""

    slope: float
    offset: float
    least: float

    def __call__(self, sde: SDE, u: Tensor) -> Tensor:
        return (self.slope * u + self.offset).clamp(min=self.least)


class GeometricTime(NamedTuple):
    """t with s_min (s_max/s_min)^t = sigma(u), not below `least`."""

    log_s_min: float
    log_ratio: float
    least: float

    def __call__(self, sde: SDE, u: Tensor) -> Tensor:
        return ((sde.sigma(u).log() - self.log_s_min) / self.log_ratio).clamp(min=self.least)


class PosteriorNetwork(nn.Module):
    """`network(z, t, x=None)`: an estimator at the observation x_o, or at one observation for each sample."""

    def __init__(self, estimator: Estimator, x_o: Tensor | None, scale: float) -> None:
        super().__init__()
        self.estimator, self.scale = estimator, scale
        self.register_buffer("x_o", x_o)

    def forward(self, z: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """`z` `(B, *event)`, `t` `(B,)`, `x` `(B, *observation)` or None for x_o -> `(B, *event)`.

        Raises:
            ValueError: no observation is known.
        """
        observed: Any = self.x_o if x is None else x
        if observed is None:
            raise ValueError("no observation: give x_o to posterior_model, or x=, one for each sample")
        return self.estimator(self.scale * z, condition=observed, time=t)


class PosteriorModel(ScoreModel):
    """An estimator of sbi as a `ScoreModel`; see `posterior_model`.

    Attributes:
        event: the shape of one vector of parameters.
        prior: of the parameters, where a posterior was given; None for a bare estimator.
    """

    def __init__(self, estimator: Estimator, path: Path, x_o: Tensor | None, prior: Any) -> None:
        super().__init__(PosteriorNetwork(estimator, x_o, path.scale), path.sde, cast(Any, path.prediction), path.time)
        self.event, self.prior = tuple(estimator.input_shape), prior

    @property
    def estimator(self) -> Estimator:
        """The estimator."""
        return cast(PosteriorNetwork, self.network).estimator

    def start(self, n: int, generator: Generator | None = None, seeds: Iterable[int] | None = None) -> Tensor:
        """n states at t = 1, `(n, *event)`, from the estimator's base distribution: N(mean_base, std_base^2) in each coordinate."""
        estimator, scale = self.estimator, cast(PosteriorNetwork, self.network).scale
        noise = noise_source(generator, seeds, n).draw((n, *self.event), self.dtype, self.device)
        # The base of a flow is a standard normal, which is our state at t = 1 itself.
        scale = 1.0 if isinstance(self.sde, RectifiedFlow) else scale
        return (estimator.mean_base + estimator.std_base * noise) / scale

    def to_parameters(self, z: Tensor) -> Tensor:
        """Parameters from last states: an estimator that was trained on standardised parameters keeps the way back."""
        from_z = getattr(self.estimator, "from_z", None)
        parameters: Tensor = from_z(z) if getattr(self.estimator, "compose_enabled", False) and from_z is not None else z
        return parameters


def posterior_model(posterior: Any, x_o: Any = None) -> PosteriorModel:
    """A posterior of sbi's NPSE or FMPE as a score model.

    Args:
        posterior: what `inference.build_posterior()` returned, or the estimator that `inference.train()` returned. It is put into evaluation
            mode.
        x_o: the observation, `(*observation)`. None for one observation for each sample, which `sample` takes as x=; a posterior's default
            observation is taken where it has one.

    Raises:
        TypeError: an object without a vector field, such as the posterior of NPE or of NLE.
        ValueError: the estimator has a path of its own, or `x_o` is another shape or several observations.
    """
    estimator = getattr(posterior, "vector_field_estimator", posterior)
    missing = [
        name for name in ("input_shape", "condition_shape", "mean_t_fn", "std_fn", "t_min", "t_max") if not hasattr(estimator, name)
    ]
    if missing:
        raise TypeError(
            f"posterior must be one of NPSE or FMPE, which have a score or a flow: {type(posterior).__name__} has no {', '.join(missing)}"
        )
    path = matching_path(estimator)
    observed = getattr(posterior, "default_x", None) if x_o is None else x_o
    if observed is not None:
        observed = _observation(observed, tuple(estimator.condition_shape)).to(estimator.mean_base)
    model = PosteriorModel(estimator, path, observed, getattr(posterior, "prior", None))
    return model.eval()


def sample_posterior(
    model: PosteriorModel, n: int, solver: Any = None, *, generator: Generator | None = None, **options: Any
) -> Tensor:
    """n parameters, `(n, *event)`, from the estimator's base distribution down to its posterior; those outside the prior are drawn again.

    A bare estimator has no prior, so nothing is drawn again. `sample(model, ..., z=model.start(n))` never draws again.

    Args:
        model: of `posterior_model`.
        n: how many.
        solver: as in `sample`.
        generator: of the start and of the solver's noise.
        options: of `sample`, such as `nfe`, `steps` and `grid`. An observation for each sample cannot be among them: its samples would be
            drawn again beside another one.

    Raises:
        ValueError: `x` is among the options.
        RuntimeError: most samples lie outside the prior.
    """
    n = as_count("n", n)
    if "x" in options:
        raise ValueError("sample_posterior draws from one posterior: give x_o to posterior_model, or x= to sample")
    kept: list[Tensor] = []
    for _ in range(ROUNDS):
        z = model.start(n, generator)
        theta = model.to_parameters(sample(model, z.shape, solver, z=z, generator=generator, **options))
        kept.append(theta if model.prior is None else theta[within_prior(model.prior, theta)])
        if sum(map(len, kept)) >= n:
            return torch.cat(kept)[:n]
    raise RuntimeError(
        f"of {ROUNDS * n} samples only {sum(map(len, kept))} lie inside the prior: the network has put its mass outside"
    )


def within_prior(prior: Any, theta: Tensor) -> Tensor:
    """Which of the parameters `(n, *event)` have a positive density, `(n,)`."""
    try:
        inside: Tensor = prior.support.check(theta)
    except (AttributeError, NotImplementedError):
        inside = prior.log_prob(theta).isfinite()
    return inside.reshape(len(theta), -1).all(1)


def matching_path(estimator: Estimator) -> Path:
    """Our path on which the estimator's lies.

    Raises:
        ValueError: there is none; says where the nearest differs.
    """
    e: Any = estimator
    t_min, t_max = float(e.t_min), float(e.t_max)
    if hasattr(e, "noise_scale"):
        c = float(e.noise_scale)
        flow = RectifiedFlow()
        flow.t_min = max(flow.t_min, c / (1 + c))
        return Path(flow, "velocity", 1 + c, LinearTime(1 + c, -c, 0.0))
    if hasattr(e, "sigma_min"):
        s_min, ratio = float(e.sigma_min), float(e.sigma_max) / float(e.sigma_min)
        ve = EDM(s_min * ratio**t_min, s_min * ratio**t_max)
        return _checked(estimator, [Path(ve, "score", 1.0, GeometricTime(math.log(s_min), math.log(ratio), t_min))])
    # B(t_max u): the estimator's times up to t_max are ours up to 1.
    beta_min = float(e.beta_min) * t_max
    beta_max = beta_min + (float(e.beta_max) - float(e.beta_min)) * t_max**2
    candidates = []
    for sde in (VPSDE(beta_min, beta_max), SubVPSDE(beta_min, beta_max)):
        sde.t_min = t_min / t_max
        candidates.append(Path(sde, "score", 1.0, LinearTime(t_max, 0.0, t_min)))
    return _checked(estimator, candidates)


def _checked(estimator: Estimator, candidates: list[Path]) -> Path:
    """The path among the candidates whose scales are those of the estimator."""
    found = ""
    for path in candidates:
        u = torch.linspace(path.sde.t_min, 1, 17, dtype=torch.float64, device="cpu")
        t = path.time(path.sde, u).float().to(estimator.mean_base.device)
        theirs = [part.detach().double().cpu().reshape(-1) for part in (estimator.mean_t_fn(t), estimator.std_fn(t))]
        ours = [path.sde.alpha(u), path.sde.sigma(u)]
        gap = max(float(((a - b).abs() / (1e-3 + b.abs())).max()) for a, b in zip(theirs, ours, strict=True))
        if gap < 1e-3:
            return path
        found += f"; {type(path.sde).__name__} is off by {gap:.1%}"
    raise ValueError(
        f"{type(estimator).__name__} has a path that is none of sbi's own{found}: make a ScoreModel of its score by hand"
    )


def _observation(x_o: Any, shape: tuple[int, ...]) -> Tensor:
    """The observation as `(1, *observation)`."""
    observed = as_tensor("x_o", x_o)
    if tuple(observed.shape) == shape:
        return observed[None]
    if tuple(observed.shape) == (1, *shape):
        return observed
    several = (
        "; several observations at once are not one posterior here: give x=, one for each sample"
        if observed.ndim > len(shape)
        else ""
    )
    raise ValueError(f"x_o must have shape {shape}, got {tuple(observed.shape)}{several}")
