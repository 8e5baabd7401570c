"""What a network predicts, and the exact conversions between it and everything else.

Data x and noise eps determine the state, and every prediction is a direction in their plane:

    z        = alpha x + sigma eps
    data     = x
    noise    = eps                      g(z, w, t) of Bishop, section 20.2
    score    = -eps / sigma             Bishop, section 20.3: s = -g / sqrt(1 - alpha_t)
    velocity = alpha eps - sigma x      Salimans and Ho 2022, arXiv 2202.00512; eps - x on a rectified flow
    edm      = F with data = c_skip z/alpha + c_out F       Karras et al. 2022, arXiv 2206.00364, eq. 7

Any quantity `a' x + b' eps` is a linear combination of the state and one prediction `a x + b eps`. Every conversion is therefore the solution
of one 2 x 2 system. The system is singular where the prediction is parallel to the state, as the noise is at alpha = 0. All but parallel,
the sine of their angle at most `NO_SIGNAL`, counts as parallel at the noisy end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..numerics.arrays import Time, values_are_known
from ..numerics.brief import Brief
from ..numerics.inputs import as_function, as_number, as_one_of, as_values
from .base import NO_SIGNAL, SDE, as_time


@dataclass(frozen=True)
class Preconditioned:
    """The prediction of EDM's network F for data of standard deviation `sigma_data`. F also sees a scaled input.

    With r = sigma/alpha, y = z/alpha and s = sigma_data (Karras et al. 2022, arXiv 2206.00364, table 1),

        data = c_skip y + c_out F(c_in y),    c_skip = s^2/(r^2 + s^2),   c_out = r s/sqrt(r^2 + s^2),   c_in = 1/sqrt(r^2 + s^2).

    Multiplied out with v = alpha^2 s^2 + sigma^2 nothing is singular at alpha = 0: F = sigma/(s sqrt v) x - alpha s/sqrt v eps. With `sign`
    -1 the network returns -F, as those that others call a v-prediction do: for s = 1 and a variance-preserving path -F is the velocity.

    Raises:
        ValueError: `sigma_data` is not positive and finite, or `sign` is neither 1 nor -1.
    """

    sigma_data: float = 0.5
    sign: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 for F or -1 for -F, got {self.sign!r}")

    def scale(self) -> float:
        """`sigma_data` as a number, checked wherever it is used.

        Raises:
            TypeError: `sigma_data` is no real number.
            ValueError: `sigma_data` is not positive and finite.
        """
        return as_number("sigma_data", self.sigma_data, above=0.0)

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """c_in / alpha, the factor on the state z."""
        return (alpha**2 * self.scale() ** 2 + sigma**2).rsqrt()


@dataclass(frozen=True, repr=False)
class Direction(Brief):
    """A prediction a(sde, t) x + b(sde, t) eps of one's own.

        Direction(alpha_rate, sigma_rate)   the velocity of flow matching on any path, dalpha/dt x + dsigma/dt eps

    Args:
        a, b: functions of the path and of times `(n,)` in float64, which return a tensor of this shape or a number. Take named functions, as
            a lambda makes a model that cannot be pickled.

    Raises:
        TypeError: `a` or `b` is no function.
    """

    a: Callable[[SDE, Tensor], Tensor | float]
    b: Callable[[SDE, Tensor], Tensor | float]

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            as_function(name, getattr(self, name), 2)

    def at(self, sde: SDE, t: Time) -> tuple[Tensor, Tensor]:
        """(a, b) in float64 at each entry of `t`.

        Raises:
            TypeError: no real numbers came back.
            ValueError: they have another shape.
        """
        times = as_time(t)
        return as_values("a", self.a(sde, times.clone()), times), as_values("b", self.b(sde, times.clone()), times)


def alpha_rate(sde: SDE, t: Tensor) -> Tensor:
    """dalpha/dt, by automatic differentiation: f alpha is 0 times infinity where no signal is left."""
    rate = _rate(sde.alpha, t)
    return sde.drift_rate(t) * sde.alpha(t) if rate is None else rate


def sigma_rate(sde: SDE, t: Tensor) -> Tensor:
    """dsigma/dt, likewise; sigma' = (g^2 + 2 f sigma^2)/(2 sigma)."""
    rate = _rate(sde.sigma, t)
    if rate is not None:
        return rate
    sigma = sde.sigma(t)
    return (sde.diffusion(t) ** 2 + 2 * sde.drift_rate(t) * sigma**2) / (2 * sigma)


def _rate(scale: Callable[[Tensor], Tensor], t: Tensor) -> Tensor | None:
    """The derivative; None for a scale without a gradient: a constant one, or one made by quadrature."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        value = scale(t)
        return torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else None


Prediction = Literal["data", "noise", "score", "velocity"] | Preconditioned | Direction


PREDICTIONS = ("data", "noise", "score", "velocity")

# What papers and other libraries call them.
PREDICTIONS_ELSEWHERE = {
    "epsilon": "noise",
    "eps": "noise",
    "v_prediction": "velocity",
    "v-prediction": "velocity",
    "v": "velocity",
    "x0": "data",
    "x_0": "data",
    "x_start": "data",
    "sample": "data",
    "denoised": "data",
}

# Names for eps - x, which is the velocity on some paths only.
FLOW = ("flow", "flow_prediction")


def as_prediction(prediction: Any, sde: SDE) -> Prediction:
    """A prediction by its name here or elsewhere, or as it is; "edm" is `Preconditioned()`.

    Raises:
        TypeError: neither a name nor a prediction.
        ValueError: no prediction has this name, or "flow" where the velocity is not eps - x.
    """
    if isinstance(prediction, Preconditioned | Direction):
        return prediction
    if isinstance(prediction, str) and prediction.lower() in FLOW:
        a, b = sde.velocity_direction(torch.tensor([0.25, 0.75], dtype=torch.float64, device="cpu"))
        if not (bool((a == -1).all()) and bool((b == 1).all())):
            raise ValueError(
                f"prediction={prediction!r} is eps - x, the velocity on RectifiedFlow(), and the path is {sde!r}: take RectifiedFlow(), or a "
                "Direction with a = -1 and b = 1"
            )
        return "velocity"
    name = as_one_of("prediction", prediction, (*PREDICTIONS, "edm"), elsewhere=PREDICTIONS_ELSEWHERE)
    return Preconditioned() if name == "edm" else name  # type: ignore[return-value]


def direction(sde: SDE, t: Time, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """(a, b) in float64 with prediction = a x + b eps, at each entry of `t`."""
    return _direction(sde, t, sde.alpha(t), sde.sigma(t), prediction)


def _direction(sde: SDE, t: Time, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """`direction` from alpha and sigma at `t`."""
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    if isinstance(prediction, Preconditioned):
        c_in, s = prediction.input_scale(alpha, sigma), prediction.scale()
        return prediction.sign * sigma / s * c_in, -prediction.sign * alpha * s * c_in
    if isinstance(prediction, Direction):
        return prediction.at(sde, t)
    if prediction == "data":
        return one, zero
    if prediction == "noise":
        return zero, one
    if prediction == "score":
        return zero, -1 / sigma
    if prediction == "velocity":
        return sde.velocity_direction(t)
    raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")


def convert(alpha: Tensor, sigma: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(c_z, c_out) with a' x + b' eps = c_z z + c_out (a x + b eps), where `source` is (a, b) and `target` (a', b')."""
    (a, b), (a_target, b_target) = source, target
    determinant = alpha * b - sigma * a
    return (a_target * b - b_target * a) / determinant, (alpha * b_target - sigma * a_target) / determinant


def slope(sde: SDE, t: Time, source: Prediction, target: Prediction) -> Tensor:
    """c_out of `conversion` at each entry of `t`, infinite or nan where the source does not determine the target.

    For losses: among a million uniform times on a path without signal at t = 1 one has alpha <= `NO_SIGNAL`, where `conversion` raises.
    """
    if source == target:
        return torch.ones_like(sde.alpha(t))
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    if (source, target) in (("noise", "score"), ("score", "noise")):  # parallel, at every alpha
        return -sigma if target == "noise" else -1 / sigma
    return convert(alpha, sigma, _direction(sde, t, alpha, sigma, source), _direction(sde, t, alpha, sigma, target))[1]


def conversion(sde: SDE, t: Time, source: Prediction, target: Prediction) -> tuple[Tensor, Tensor]:
    """(c_z, c_out) in float64 with target = c_z z + c_out source, at each entry of `t`.

    Raises:
        ValueError: at some t the source does not determine the target. Only known values are checked (`values_are_known`).
    """
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    if source == target:
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    if (source, target) in (("noise", "score"), ("score", "noise")):  # parallel, at every alpha
        return torch.zeros_like(alpha), -sigma if target == "noise" else -1 / sigma
    a, b = _direction(sde, t, alpha, sigma, source)
    a_target, b_target = _direction(sde, t, alpha, sigma, target)
    c_z, c_out = convert(alpha, sigma, (a, b), (a_target, b_target))
    if values_are_known(c_out):
        sine = (alpha * b - sigma * a).abs() / (torch.hypot(alpha, sigma) * torch.hypot(a, b))
        silent = (alpha < sigma) & ~(sine > NO_SIGNAL)
        undetermined = silent | ~(c_z + c_out).isfinite()
        if bool(undetermined.any()):
            at = as_time(t).broadcast_to(c_out.shape)[undetermined].flatten()[0]
            raise ValueError(
                f"prediction={source!r} does not determine the {target} at t={at.item():g}, where alpha={sde.alpha(at).item():.3g} "
                f"and sigma={sde.sigma(at).item():.3g}: "
                + (
                    "without signal use prediction='velocity' or 'data', or start at a smaller t"
                    if bool(silent[undetermined].any())
                    else "stop at a larger t"
                )
            )
    return c_z, c_out
