"""Networks that return the denoised data D, with their preconditioning inside: EDM, EDM2 and azula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...models.score_model import ScoreModel
from ...models.time_warped import TimeWarped
from ...models.times import noise_scale
from ...numerics.arrays import Time
from ...sde.base import SDE, as_time
from ...sde.families import EDM


def edm(network: nn.Module, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> ScoreModel:
    """A preconditioned network of EDM or EDM2 (Karras et al. 2022, arXiv 2206.00364): D = network(z, sigma, class_labels=...).

    Their files are pickles, which run code when they are read. Read one in their own code, and give `data["ema"]` here. Class labels are
    floats, one-hot, with the keyword `class_labels`. Denoisers D(x, sigma) of others in this form are read too, as those of k-diffusion are.

    Args:
        network: in evaluation mode.
        sigma_min, sigma_max: the range of the path, narrowed to the attributes `sigma_min` and `sigma_max` of the network where it has them.

    Raises:
        TypeError: `network` is no module.
        ValueError: the range is empty.
    """
    low, high = (getattr(network, name, end) for name, end in (("sigma_min", 0.0), ("sigma_max", float("inf"))))
    return ScoreModel(network, EDM(max(sigma_min, float(low)), min(sigma_max, float(high))), "data", time=noise_scale)


def azula(denoiser: Any) -> TimeWarped:
    """A denoiser of azula, `denoiser(x_t, t).mean` with `denoiser.schedule`, on the path of EDM over its range of noise-to-signal ratios.

    azula's schedules start at sigma > 0, so that they are no paths here. D is the same at equal sigma/alpha.

    Args:
        denoiser: in evaluation mode.

    Raises:
        TypeError: it has no schedule.
        ValueError: sigma/alpha of its schedule does not rise, or is infinite at its end.
    """
    schedule = getattr(denoiser, "schedule", None)
    if not callable(schedule):
        raise TypeError(f"azula needs a denoiser of azula with a schedule, got {denoiser!r}")
    own = Schedule(schedule)
    low, high = (float((-own.half_log_snr(t)).exp()) for t in (0.0, 1.0))
    return TimeWarped(ScoreModel(PosteriorMean(denoiser), own, "data", time="t"), EDM(low, high))


class PosteriorMean(nn.Module):
    """The mean of the posterior that a denoiser of azula returns."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, z: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """E[x | z], of the shape of `z`."""
        mean: Tensor = self.denoiser(z, t, **cond).mean
        return mean


class Schedule(SDE):
    """The scales of a schedule of azula. It starts at sigma > 0, and serves to find its times alone."""

    def __init__(self, schedule: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.schedule = schedule

    def alpha(self, t: Time) -> Tensor:
        return self.schedule(as_time(t))[0]

    def sigma(self, t: Time) -> Tensor:
        return self.schedule(as_time(t))[1]

    def __repr__(self) -> str:
        return f"{type(self.schedule).__name__} of azula"
