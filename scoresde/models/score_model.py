"""A network with its path, its prediction and its time convention, declared once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import deprecation
from ..numerics.arrays import Time, expand, require_one_each, to_device
from ..numerics.brief import line, shown
from ..numerics.inputs import as_one_of
from ..numerics.keywords import explained_keywords
from ..sde.base import SDE, as_time
from ..sde.linear import LinearSDE
from ..sde.prediction import Preconditioned, Prediction, as_prediction
from ..sde.vp import VPChain
from .base import Model

TimeConvention = str | Callable[[SDE, Tensor], Tensor]


def index(sde: SDE, t: Tensor) -> Tensor:
    """t T - 1: the 0-based index of a chain's step, 0..T-1 at t = 1/T..1 and fractional in between."""
    if not isinstance(sde, VPChain):
        raise ValueError(f"time='index' needs a discrete chain (VPSDE.from_betas), got {sde!r}; use 't' or 'half_log_snr'")
    return t * sde.steps - 1


def integer_index(sde: SDE, t: Tensor) -> Tensor:
    """The nearest index, for a network that looks it up in a table."""
    return index(sde, t).round().clamp(min=0).long()


def same(sde: SDE, t: Tensor) -> Tensor:
    """t itself."""
    return t


def half_log_snr(sde: SDE, t: Tensor) -> Tensor:
    """lambda(t)."""
    return sde.half_log_snr(t)


def edm(sde: SDE, t: Tensor) -> Tensor:
    """log(sigma/alpha)/4, c_noise of Karras et al. 2022."""
    return -0.25 * sde.half_log_snr(t)


def noise_scale(sde: SDE, t: Tensor) -> Tensor:
    """sigma/alpha."""
    return (-sde.half_log_snr(t)).exp()


# Named functions: a model must be picklable.
TIMES: dict[str, Callable[[SDE, Tensor], Tensor]] = {
    "t": same,
    "index": index,
    "integer_index": integer_index,
    "half_log_snr": half_log_snr,
    "edm": edm,
}

# What other libraries call them.
TIMES_ELSEWHERE = {"timestep": "index", "timesteps": "index", "lambda": "half_log_snr", "c_noise": "edm"}

# What people write of a time that runs from noise to data.
REVERSED = ("1-t", "reversed", "reverse", "noise_to_data")


class NetworkTime(NamedTuple):
    """A time as the network sees it, `(B, ...)`, the scale of its input (None: 1) and the dtype that it computes in."""

    time: Tensor
    scale: Tensor | None
    dtype: torch.dtype


class ScoreModel(nn.Module, Model):
    """A network `network(z, time, **cond)` as a score model.

    The network gets a copy of the state, so it may work in place on it. It may not change its conditions.

    Args:
        network: any callable module. It returns a tensor of the shape of `z`, or a tuple, dict or dataclass that holds one (`as_output`). Its
            time has shape `(B,)`. Modules with a method `declare_time(name)` (as ours have) are told which convention they will see, also
            inside a wrapper such as `DataParallel`.
        sde: the path that the network was trained on.
        prediction: what the network returns: "noise", "data", "velocity", "score" or "edm" (F of Karras et al., whose input is scaled too;
            `Preconditioned(sigma_data)` for data of another standard deviation than 0.5), or a `Direction` of your own. Names of other
            libraries are understood: "epsilon", "x0", "sample", "v", "v_prediction", and "flow" on a rectified flow.
        time: what the network takes as time: "t", "index" or "timestep" (0..T-1 of a chain), "integer_index" (rounded, for an embedding
            table), "half_log_snr", "edm" (log(sigma/alpha)/4), "sigma" (sigma/alpha), or a function of `(sde, t)` with t `(n,)` in float64.
            Such a function may return integers and more axes, `(n, 1)`. By default "edm" for that prediction, "index" on a chain and "t"
            elsewhere.

    Attributes:
        time_name: the name of the time convention; None for a function.

    Raises:
        TypeError: a network that is not callable, a path that is no `SDE`, or a prediction of another type.
        ValueError: an unknown prediction or time convention, or "index" where there is no chain.
    """

    @explained_keywords(
        prediction_type="what the network predicts is prediction=",
        parameterization="what the network predicts is prediction=",
        objective="what the network predicts is prediction=",
        sign="negate the network's output in a module around it; interop.formats.velocity(network, direction=...) does so for flows",
        direction="interop.formats.velocity(network, direction=...) reads flows of both directions",
        betas="the path of these betas is sde=VPSDE.from_betas(betas)",
        scheduler="interop.diffusers.from_diffusers(network, scheduler) reads one",
    )
    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        prediction: Prediction | str = "noise",
        time: TimeConvention | None = None,
    ) -> None:
        super().__init__()
        if not callable(network) or isinstance(network, type):
            raise TypeError(f"network must be a module, called with (z, time), got {network!r}")
        if not isinstance(sde, SDE):
            raise TypeError(f"sde must be a path such as VPSDE(), got {sde!r}")
        prediction = as_prediction(prediction, sde)
        if isinstance(prediction, Preconditioned):
            prediction.scale()  # raises
        if time is None:
            time = "edm" if isinstance(prediction, Preconditioned) else "index" if isinstance(sde, VPChain) else "t"
        if isinstance(time, str) and time.replace(" ", "").lower() in REVERSED:
            raise ValueError(
                f"time={time!r}: t = 1 is noise here. interop.formats.velocity(network, direction='noise_to_data') reads a flow whose time "
                "runs from noise to data; for other networks time= may be a function of (sde, t)"
            )
        if not callable(time):
            time = as_one_of("time", time, (*TIMES, "sigma"), "a function of (sde, t)", elsewhere=TIMES_ELSEWHERE)
        if time == "sigma":
            time = noise_scale
        self.network, self.sde, self.prediction = network, sde, prediction
        self.time_name = time if isinstance(time, str) else None
        self._network_time: Callable[[SDE, Tensor], Tensor] = time if callable(time) else TIMES[time]
        self._network_time(sde, as_time(sde.t_max).reshape(1))
        if isinstance(time, str) and isinstance(network, nn.Module):
            for module in network.modules():
                declare = getattr(module, "declare_time", None)
                if callable(declare):
                    declare("index" if time == "integer_index" else time)

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.network.parameters()) if isinstance(self.network, nn.Module) else 0
        time = f"time={self.time_name or shown(self._network_time)!s}"
        return line(
            type(self).__name__,
            f"{type(self.network).__name__} of {weights:,} parameters",
            repr(self.sde),
            shown(self.prediction),
            time,
        )

    def network_time(self, t: Time) -> Tensor:
        """The time that the network sees at the times `t`: float64, or integers where `time=` returns these."""
        return self._network_time(self.sde, as_time(t))

    def output(self, z: Tensor, t: Time | NetworkTime, **cond: object) -> Tensor:
        """`network(z, time, **cond)`, with the state cast to the network's dtype; time comes in float32 at least.

        Raises:
            TypeError: the network returned no tensor.
            ValueError: the network's output has another shape than `z`, or the network changed a condition in place.
        """
        out: Tensor = self(z, t, **cond)
        shape = self.sde.data_shape(z.shape) if isinstance(self.sde, LinearSDE) else z.shape
        if out.shape != shape:
            wanted = "" if shape == z.shape else f" and data of shape {tuple(shape)}"
            raise ValueError(f"the network returned shape {tuple(out.shape)} for a state of shape {tuple(z.shape)}{wanted}")
        return out

    def forward(self, z: Tensor, t: Time | NetworkTime, **cond: object) -> Tensor:
        """The network's output, before its shape is checked; a method of its own so that hooks fire."""
        if not isinstance(t, NetworkTime):
            t = as_time(t)
            if t.shape != (1,):  # one time for all
                require_one_each(t, z)
            time, scale, dtype = self._network_inputs(t, z)
            t = NetworkTime(time.expand(z.shape[0], *time.shape[1:]), scale, dtype)
        # A subclass may call the network on a larger batch, as guidance does.
        time = t.time if t.time.shape[0] == z.shape[0] else t.time[:1].expand(z.shape[0], *t.time.shape[1:])
        x = z if t.scale is None else expand(t.scale, z) * z
        x = x if x.dtype == t.dtype else x.to(t.dtype)
        before = versions(cond)
        out = as_output(self.network(x.clone() if x is z else x, time, **cond))
        if versions(cond) != before:
            raise ValueError(
                f"the network changed one of its conditions {', '.join(cond)} in place: later calls would see another one"
            )
        return out

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[NetworkTime]:
        """The network's time and the scale of its input at each of the `times`, on the device of `z`: two copies for all of them."""
        time, scale, dtype = self._network_inputs(as_time(torch.tensor(times, dtype=torch.float64, device="cpu")), z)
        scales = [None] * len(times) if scale is None else scale.unbind()
        repeated = time[:, None].expand(-1, len(z), *time.shape[1:]).unbind()
        return [NetworkTime(*each, dtype) for each in zip(repeated, scales, strict=True)]

    def _network_inputs(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor | None, torch.dtype]:
        """The entries of `NetworkTime` at the times `t`, a scalar or `(n,)`: the network's time is `(n, ...)`, `(1, ...)` for a scalar."""
        parameter = next(self.parameters(), z)
        dtype = parameter.dtype if parameter.is_floating_point() else z.dtype
        time = self._network_time(self.sde, t.reshape(-1))
        if not isinstance(time, Tensor) or time.shape[:1] != (t.numel(),):
            raise ValueError(f"time= must return a tensor with one entry for each of {t.numel()} times, got {time!r}")
        # Half precision would round the index 999 to 1000. A copy: the function may hand back the caller's own times.
        precise = torch.promote_types(dtype, torch.float32) if time.is_floating_point() else time.dtype
        time = to_device(time.to(precise, copy=True), z.device)
        if not isinstance(self.prediction, Preconditioned) or isinstance(self.sde, LinearSDE):
            return time, None, dtype
        scale = self.prediction.input_scale(self.sde.alpha(t), self.sde.sigma(t))
        return time, to_device(scale.to(torch.promote_types(z.dtype, torch.float32)), z.device), dtype

    def compiled(self) -> ScoreModel:
        """Deprecated: `models.compiled(model)`."""
        deprecation.warn("ScoreModel.compiled()", "scoresde.models.compiled(model)")
        twin: ScoreModel = deprecation.load("models.wrappers:compiled")(self)
        return twin

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that samples are drawn in, float64 for a float64 network and float32 otherwise."""
        parameter = next(self.parameters(), torch.empty(0))
        return torch.float64 if parameter.dtype == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters(), torch.empty(0)).device


def as_output(out: Any) -> Tensor:
    """The tensor in what a network returned: itself, `out.sample`, `out["sample"]`, the first entry of a tuple, or the only one of a dict.

    Raises:
        TypeError: there is none.
    """
    if isinstance(out, Tensor):
        return out
    if isinstance(out, Mapping):
        found = out.get("sample", next(iter(out.values())) if len(out) == 1 else None)
    elif isinstance(out, tuple | list) and out and not hasattr(out, "sample"):
        found = out[0]
    else:
        found = getattr(out, "sample", None)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"the network returned {type(out).__name__}, in which no tensor is found: return the prediction itself, a tuple that starts with "
            "it, or an object with the attribute sample"
        )
    return found


def versions(cond: Mapping[str, object]) -> list[int]:
    """How often each tensor among the conditions was written to; empty where torch does not count."""
    if not cond or torch.compiler.is_compiling():
        return []
    return [value._version for value in cond.values() if isinstance(value, Tensor) and not value.is_inference()]
