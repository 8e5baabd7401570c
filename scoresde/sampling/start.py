"""The state that sampling starts from."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.coefficients import Coefficient, apply, root
from ..numerics.inputs import as_device, as_dtype, as_state
from ..numerics.random import NoiseSource
from ..sde.base import MOST_SIGNAL, SDE
from ..sde.bridge import Bridge
from ..sde.linear import LinearSDE, at_state
from .frames import Frame

# The largest alpha/sigma at which a state is taken for noise.
LARGEST_SIGNAL = 0.1
# How many times larger or smaller than the prior a given start at t = 1 may be, and the numbers that its size is known from.
MOST_RATIO, ENOUGH = 3.0, 16
# How far sigma(1) may be from prior_std, as a share of it.
MOST_EXCESS = 0.1


@dataclass(frozen=True)
class Start:
    """The given state `z`, or noise of standard deviation `std`, which on a `LinearSDE` is a root of its covariance in the basis.

    Attributes:
        shape: of the states, `(B, *event)`.
        t: their time.
        dtype, device: of the states; None keeps those of `z`.
    """

    shape: tuple[int, ...]
    t: float
    z: Tensor | None
    std: Coefficient
    dtype: torch.dtype | None
    device: torch.device | None

    @classmethod
    def of(
        cls,
        model: Model,
        t: float,
        shape: tuple[int, ...],
        z: Tensor | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> Start:
        """The start at time `t` for these arguments of `sample`.

        Raises:
            TypeError: `z` or `dtype` is not of real numbers.
            ValueError: `z` has another shape, or none is given where a state still depends on the data.
        """
        dtype, device = as_dtype("dtype", dtype), as_device("device", device)
        shape = model.sde.state_shape(shape) if isinstance(model.sde, LinearSDE) else shape
        if z is not None:
            z = as_state("z", z)
            if z.shape != shape:
                raise ValueError(f"z has shape {tuple(z.shape)}, but samples of shape {shape} were asked for")
            given = cls(shape, t, z, 0.0, dtype, device)
            if t == 1:
                warn_of_scale(model.sde, given)
            return given
        if t == 1:
            warn_of_prior(model.sde)
        scale = getattr(model, "start_scale", 1.0)
        std = scale * (start_root(model.sde, t) if isinstance(model.sde, LinearSDE) else start_std(model.sde, t))
        return cls(shape, t, None, std, dtype or model.dtype, device or model.device)

    @property
    def size(self) -> float:
        """The root of the mean square of the start, as `std` or of `z`."""
        if self.z is not None:
            return float(self.z.detach().double().square().mean().sqrt()) if self.z.numel() else 0.0
        return float(torch.as_tensor(self.std).double().square().mean().sqrt())

    def draw(self, part: slice, noise: NoiseSource, frame: Frame) -> Tensor:
        """The states of a part of the batch in the frame of the solver, a new tensor."""
        if self.z is not None:
            return frame.enter(self.z[part].to(device=self.device, dtype=self.dtype, copy=True), self.t)
        assert self.dtype is not None
        assert self.device is not None
        drawn = noise.draw((part.stop - part.start, *self.shape[1:]), self.dtype, self.device)
        return apply(at_state(self.std, drawn) if isinstance(self.std, Tensor) else self.std, drawn)


def warn_of_scale(sde: SDE, start: Start) -> None:
    """Warn where a given start is of another scale than the prior, as unit noise is on a variance-exploding path."""
    if isinstance(sde, Bridge | LinearSDE) or math.prod(start.shape) < ENOUGH:
        return
    size, std = start.size, sde.prior_std
    if not std / MOST_RATIO <= size <= MOST_RATIO * std:
        warnings.warn(
            f"z has a root mean square of {size:.3g}, and {sde!r} starts from noise of standard deviation prior_std={std:.3g}: multiply unit "
            "noise by sde.prior_std",
            UserWarning,
            stacklevel=4,
        )


def warn_of_prior(sde: SDE) -> None:
    """Warn where the marginal of unit data at t = 1, N(alpha x, sigma^2 I), is far from the prior N(0, prior_std^2 I)."""
    if isinstance(sde, Bridge | LinearSDE):
        return
    alpha, sigma, std = float(sde.alpha(1.0)), float(sde.sigma(1.0)), sde.prior_std
    if alpha > MOST_SIGNAL * std or abs(sigma / std - 1) > MOST_EXCESS:
        warnings.warn(
            f"{sde!r} does not end in the noise that samples start from: alpha(1)={alpha:.3g} and sigma(1)={sigma:.3g}, but the prior has "
            f"mean 0 and prior_std={std:.3g}. scoresde.prior_mismatch(sde, x) is the mismatch in nats; give z=, set sde.prior_std, or let the "
            "path end in more noise",
            UserWarning,
            stacklevel=4,
        )


def start_root(sde: LinearSDE, t: float) -> Tensor:
    """A root of the covariance of the noise to start from at t, in the basis.

    Raises:
        ValueError: the data has not all but vanished at t.
    """
    at = torch.tensor([t], dtype=torch.float64, device="cpu")
    # Of the block that forgets last. At t = 1 only what is known does not count as noise.
    ratio = float(1 / sde.spread(at).min())
    if ratio > (LARGEST_SIGNAL if t != 1 else math.inf) or math.isinf(ratio):
        raise ValueError(
            f"sampling starts at t={t:g}, where alpha/sigma={ratio:.2g} in some block and a state still depends on the data: give z=, for "
            "instance sde.perturb(x, t)[0]"
        )
    return root(sde.covariance(at))[0]


def start_std(sde: SDE, t: float) -> float:
    """The standard deviation of the noise to start from at t: the prior's at the end of the path, and less before it as sigma is less.

    Raises:
        ValueError: the data has not all but vanished at t.
    """
    if t == 1:
        return sde.prior_std
    if isinstance(sde, Bridge):
        raise ValueError(f"a bridge starts at its known end at t=1; at t={t:g} a state depends on the data: give z=")
    ratio = float(sde.alpha(t) / sde.sigma(t))
    if ratio > LARGEST_SIGNAL:
        raise ValueError(
            f"sampling starts at t={t:g}, where alpha/sigma={ratio:.2g} and a state still depends on the data: give z=, for instance "
            "sde.perturb(x, t)[0]"
        )
    return sde.prior_std * float(sde.sigma(t) / sde.sigma(1.0))
