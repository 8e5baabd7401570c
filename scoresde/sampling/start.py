"""The state that sampling starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.inputs import as_device, as_dtype, as_state
from ..numerics.random import NoiseSource
from ..sde.base import SDE


@dataclass(frozen=True)
class Start:
    """The given state `z`, or noise of standard deviation `std`.

    Attributes:
        shape: `(B, *event)`.
        dtype, device: of the states; None keeps those of `z`.
    """

    shape: tuple[int, ...]
    z: Tensor | None
    std: float
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
        if z is not None:
            z = as_state("z", z)
            if z.shape != shape:
                raise ValueError(f"z has shape {tuple(z.shape)}, but samples of shape {shape} were asked for")
            return cls(shape, z, 0.0, dtype, device)
        std = start_std(model.sde, t) * getattr(model, "start_scale", 1.0)
        return cls(shape, None, std, dtype or model.dtype, device or model.device)

    def draw(self, part: slice, noise: NoiseSource) -> Tensor:
        """The states of a part of the batch, a new tensor."""
        if self.z is not None:
            return self.z[part].to(device=self.device, dtype=self.dtype, copy=True)
        assert self.dtype is not None
        assert self.device is not None
        return self.std * noise.draw((part.stop - part.start, *self.shape[1:]), self.dtype, self.device)


def start_std(sde: SDE, t: float) -> float:
    """The standard deviation of the noise to start from at t: the prior's at the end of the path, and less before it as sigma is less.

    Raises:
        ValueError: the data has not all but vanished at t.
    """
    if t == 1:
        return sde.prior_std
    ratio = float(sde.alpha(t) / sde.sigma(t))
    if ratio > 0.1:
        raise ValueError(
            f"sampling starts at t={t:g}, where alpha/sigma={ratio:.2g} and a state still depends on the data: give z=, for instance "
            "sde.perturb(x, t)[0]"
        )
    return sde.prior_std * float(sde.sigma(t) / sde.sigma(1.0))
