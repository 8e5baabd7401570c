"""Rules that replace the linear one, u + w (c - u), of a strong prediction c and a weak one u.

None of them is linear, so that their result depends on the space in which they act: the attribute `space` names it. All act on each sample
alone. Norms, inner products and standard deviations run over the coordinates of a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..numerics.arrays import event_sum, expand, flatten_events
from ..numerics.inputs import as_number, as_one_of
from ..sde.base import SDE, as_time
from ..sde.prediction import PREDICTIONS, PREDICTIONS_ELSEWHERE, Prediction, alpha_rate, sigma_rate


class Rule(Protocol):
    """How a strong and a weak prediction make the guided one.

    Attributes:
        space: the prediction in which the rule acts. The guided model predicts it too.
    """

    @property
    def space(self) -> Prediction: ...

    def __call__(self, strong: Tensor, weak: Tensor, weight: Tensor) -> Tensor:
        """The guided prediction from two predictions `(B, *event)` and a weight that multiplies them (a scalar, or `(B, 1, ...)`)."""
        ...


@dataclass(frozen=True)
class Rescaled:
    """phi D' + (1 - phi) D_g with D_g = u + w (c - u) and D' = D_g std(c)/std(D_g) (Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16)."""

    phi: float = 0.7
    space: Prediction = "velocity"

    def __call__(self, strong: Tensor, weak: Tensor, weight: Tensor) -> Tensor:
        guided = weak + weight * (strong - weak)
        if self.phi == 0:
            return guided
        wanted, found = (_std(prediction) for prediction in (strong, guided))
        # A constant sample has no spread to restore.
        factor = torch.where(found > 0, wanted / torch.where(found > 0, found, 1.0), 1.0)
        return guided * expand(1 + self.phi * (factor - 1), guided)


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance in data space, without momentum (Sadat et al. 2024, arXiv 2410.02416, algorithm 1).

    Delta = c - u, of at most the length `radius`, is split into the part along c and the part orthogonal to it:

        c + (w - 1) (orthogonal + eta parallel).

    Momentum would make the prediction depend on the calls before it: no model does.
    """

    eta: float = 0.0
    radius: float = math.inf
    space: Prediction = "data"

    def __call__(self, strong: Tensor, weak: Tensor, weight: Tensor) -> Tensor:
        delta = strong - weak
        if self.radius < math.inf:
            length = event_sum(delta * delta).sqrt()
            delta = delta * expand((self.radius / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1), delta)
        parallel = _along(delta, strong)
        return strong + (weight - 1) * (delta - parallel + self.eta * parallel)


@dataclass(frozen=True)
class ZeroStar:
    """CFG-Zero*: v_u is scaled to fit v_c best, s* = <v_c, v_u>/|v_u|^2 (Fan et al. 2025, arXiv 2503.18886, eq. 7 and 10).

        s* v_u + w (v_c - s* v_u),        and v = 0 without a network call at t > `zero_above`.

    Attributes:
        zero_above: the time above which a state stays where it is; None for no such time.
    """

    zero_above: float | None = None
    space: Prediction = "velocity"

    def __call__(self, strong: Tensor, weak: Tensor, weight: Tensor) -> Tensor:
        scaled = _along(strong, weak)
        return scaled + weight * (strong - scaled)


def rescaled(phi: float = 0.7, space: Prediction = "velocity") -> Rescaled:
    """Guidance whose standard deviation over a sample is pulled back to that of the conditional prediction; see `Rescaled`.

    Args:
        phi: 0 for plain guidance, 1 for the full correction.
        space: the prediction whose standard deviation counts. The paper's is the output of its network, the velocity.

    Raises:
        TypeError: `phi` is no number.
        ValueError: outside [0, 1], or an unknown space.
    """
    return Rescaled(as_number("phi", phi, 0.0, 1.0), _space(space))


def apg(eta: float = 0.0, radius: float = math.inf) -> APG:
    """Guidance orthogonal to the conditional data prediction; see `APG`. It saturates less at high weights.

    Args:
        eta: the share of the parallel part that is kept; 1 is plain guidance.
        radius: the largest length of D_c - D_u.

    Raises:
        TypeError: no numbers.
        ValueError: `radius` is not positive.
    """
    return APG(as_number("eta", eta), radius if radius == math.inf else as_number("radius", radius, above=0.0))


def zero_star(zero_above: float | None = None, space: Prediction = "velocity") -> ZeroStar:
    """CFG-Zero* for flows; see `ZeroStar`.

    Args:
        zero_above: the time above which the velocity is 0, so that a state stays; None for no such time.
        space: "velocity". Elsewhere a prediction of 0 does not mean "stay".

    Raises:
        TypeError: `zero_above` is no number.
        ValueError: outside (0, 1], or another space with `zero_above`.
    """
    if zero_above is not None:
        zero_above = as_number("zero_above", zero_above, high=1.0, above=0.0)
        if space != "velocity":
            raise ValueError(f"zero_above= sets the velocity to 0, but a {space} of 0 lets a state move: take space='velocity'")
    return ZeroStar(zero_above, _space(space))


def require_staying(sde: SDE, t: float) -> None:
    """Raise unless a velocity of 0 means dz/dt = 0 on this path, from `t` to 1.

    Raises:
        ValueError: the velocity is not along dz/dt.
    """
    times = as_time(torch.linspace(t, sde.t_max, 5, dtype=torch.float64, device="cpu"))
    a, b = sde.velocity_direction(times)
    along = alpha_rate(sde, times) * b - sigma_rate(sde, times) * a
    rate = torch.hypot(alpha_rate(sde, times), sigma_rate(sde, times))
    if not bool((along.abs() <= 1e-6 * torch.hypot(a, b) * rate).all()):
        raise ValueError(f"zero_above= needs a path whose velocity is the rate of its states, such as RectifiedFlow(), got {sde!r}")


def _space(space: Prediction) -> Prediction:
    return as_one_of("space", space, PREDICTIONS, elsewhere=PREDICTIONS_ELSEWHERE) if isinstance(space, str) else space  # type: ignore[return-value]


def _std(a: Tensor) -> Tensor:
    """The standard deviation over the coordinates of each sample, `(B,)`."""
    return flatten_events(a).std(1, correction=0)


def _along(a: Tensor, b: Tensor) -> Tensor:
    """The part of `a` along `b`, sample by sample; 0 where b is 0."""
    length2 = event_sum(b * b)
    share = event_sum(a * b) / torch.where(length2 > 0, length2, 1.0)
    return expand(share, b) * b
