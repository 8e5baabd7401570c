"""Whether two processes are one."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import SDE
from .linear import LinearSDE

# Processes are compared at these times. t = 0 is left out, as sigma is 0 there for every process.
PROBE_TIMES = torch.arange(1, 33, dtype=torch.float64, device="cpu") / 32


def schedule_fingerprint(sde: SDE) -> Tensor:
    """(alpha, sigma) at 32 times, `(2, 32)` float64 on the CPU. Processes with the same numbers are taken for one."""
    if isinstance(sde, LinearSDE):
        # Two numbers for each time, from all the blocks and the basis: sums with weights that no symmetry cancels.
        both = sde.signal(PROBE_TIMES).flatten(1), sde.covariance(PROBE_TIMES).flatten(1)
        of_basis = (sde.coordinates or sde.basis).number
        weights = [torch.cos(1.0 + torch.arange(c.shape[1], dtype=torch.float64, device="cpu")) for c in both]
        return torch.stack([(c * w).mean(1) + of_basis for c, w in zip(both, weights, strict=True)]).cpu()
    return torch.stack([sde.alpha(PROBE_TIMES), sde.sigma(PROBE_TIMES)]).cpu()


def require_same_process(made_for: SDE | Tensor, sde: SDE, what: str) -> None:
    """Raise unless `sde` is the process that `what` was made for.

    Args:
        made_for: that process, or its fingerprint.
        sde: the process of the model.
        what: the subject of the error message.

    Raises:
        ValueError: names the first time at which they differ, and the scales there.
    """
    expected = made_for if isinstance(made_for, Tensor) else schedule_fingerprint(made_for)
    here = schedule_fingerprint(sde)
    # Coefficients in float64 differ in the last digits between machines.
    differ = ((here - expected).abs() > 1e-6 * (1 + expected.abs())).any(0)
    if bool(differ.any()):
        k = int(differ.nonzero()[0])
        (a, s), (alpha, sigma) = expected[:, k].tolist(), here[:, k].tolist()
        raise ValueError(
            f"{what} was made for a process with alpha={a:.6g} and sigma={s:.6g} at t={float(PROBE_TIMES[k]):g}, but {sde!r} has "
            f"alpha={alpha:.6g} and sigma={sigma:.6g} there: make one for it"
        )
