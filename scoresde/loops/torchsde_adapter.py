"""Every method of torchsde on the reverse SDE (https://github.com/google-research/torchsde; Li et al. 2020, arXiv 2001.01328)."""

from __future__ import annotations

import warnings
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..models.reverse import ReverseSDE
from ..numerics.arrays import Time, flatten_events
from ..numerics.batching import index_cond
from ..numerics.inputs import as_number
from ..numerics.random import NoiseSource
from ..sde.base import SDE
from ..tableau.executor import Run
from .base import GridLoop, Job, data_from_drift, most, stack_or_none

ITO = ("euler", "milstein", "srk")


STRATONOVICH = ("euler_heun", "heun", "log_ode", "midpoint", "reversible_heun")


LEVY_AREA = {"srk": "space-time", "log_ode": "foster"}  # of the Brownian motion that a method needs, else "none"


STEP_MARGIN = 1e-6


@dataclass(frozen=True)
class TorchSDE(GridLoop):
    """A method of torchsde on the reverse SDE, for any event shape; needs torchsde.

    Events are flattened, time is turned round (u = 1 - t, `ReverseSDE`), every interval of the grid is one call of `torchsde.sdeint` that ends
    at the interval's own end, and the last step, to sigma = 0, is the data prediction. From alpha = 0 the first step is the transition.
    Repeated calls at one state and time, which torchsde makes, reach the network once. Noise comes from the same source as everywhere: with a
    fixed step the increments are its draws, so that "euler" is `EulerMaruyama` draw by draw. An adaptive run measures its error over the
    batch and keeps a Brownian tree, so each sample is run alone, with a tree seeded from the source: use it to compare, not for speed.

    Args:
        method: "euler", "milstein", "srk" (Ito), "euler_heun", "heun", "log_ode", "midpoint" or "reversible_heun" (Stratonovich; the
            noise does not depend on the state, so both mean the same).
        adaptive: let torchsde choose steps inside each interval of the grid.
        rtol, atol: tolerances of an adaptive run.
        dt_min: the smallest step of an adaptive run, in units of t.

    Raises:
        ValueError: an unknown method; `nfe=` in `sample`, since a method's calls are not known beforehand.
        ImportError: in `run`, torchsde is not installed.
    """

    method: str
    adaptive: bool = False
    rtol: float = 1e-5
    atol: float = 1e-4
    dt_min: float = 1e-5

    def __post_init__(self) -> None:
        if self.method not in ITO + STRATONOVICH:
            raise ValueError(f"method must be one of {', '.join(ITO + STRATONOVICH)}; got {self.method!r}")
        for name in ("rtol", "atol", "dt_min"):
            as_number(name, getattr(self, name), above=0.0)

    def calls(self, sde: SDE, times: Tensor) -> int:
        raise ValueError(
            f"nfe= means nothing to {self}: the calls that a method of torchsde makes are not known beforehand; give steps="
        )

    def solve(self, job: Job) -> Run:
        try:
            import torchsde
        except ImportError as error:
            raise ImportError(f"{self} needs torchsde: pip install torchsde") from error
        model, z, noise, callback, path = job.model, job.z, job.noise, job.callback, job.path
        sde, batch, event = model.sde, len(z), z.shape[1:]
        y, times = flatten_events(z), job.times.tolist()
        single = [torch.tensor([i], device="cpu") for i in range(batch)]
        groups: list[Tensor | None] = [*single] if self.adaptive else [None]
        reverse = ReverseSDE(model)
        parts = [_Part(reverse.flattened(event, **index_cond(job.cond, group, batch)), self.method) for group in groups]
        brownian = self._trees(torchsde, y, job.times, noise) if self.adaptive else [_Draws(y, noise, self.method)]
        shared = 0  # calls for the whole batch at once
        for n, (s, t) in enumerate(pairwise(times)):
            clean = float(sde.sigma(t)) == 0
            if clean or float(sde.alpha(s)) == 0:
                data = model.data(y.reshape(z.shape), s, **job.cond)
                shared += 1
                after = float(sde.alpha(t)) * data.reshape(y.shape)
                if not clean:
                    after = after + float(sde.sigma(t) / sde.sigma(s)) * y
            else:
                before = y.split(1) if self.adaptive else [y]
                if callback is not None:
                    drift = -torch.cat([part.f(1 - s, state) for part, state in zip(parts, before, strict=True)])
                    data = data_from_drift(sde, y.reshape(z.shape), s, drift.reshape(z.shape))
                after = torch.cat([self._step(torchsde, *args, s, t) for args in zip(parts, brownian, before, strict=True)])
            if callback is not None:
                callback(n, s, y.reshape(z.shape), data)
            y = after
            if path is not None:
                path.append(y.reshape(z.shape))
        calls = torch.tensor([part.calls + shared for part in parts], device="cpu")
        return Run(y.reshape(z.shape), stack_or_none(path), job.times, most(calls), calls if self.adaptive else None)

    def _step(self, torchsde: Any, part: _Part, brownian: Any, y: Tensor, s: float, t: float) -> Tensor:
        """One interval of the grid, from time s down to t."""
        u = torch.tensor([1 - s, 1 - t], dtype=torch.float64, device="cpu")
        with warnings.catch_warnings():
            # True of noise that depends on the state.
            warnings.filterwarnings("ignore", message="Numerical solution is not guaranteed")
            out = torchsde.sdeint(
                part,
                y,
                u,
                bm=brownian,
                method=self.method,
                # Slightly longer than the interval: u_0 + dt one rounding error short of u_1 would add a step.
                dt=float(u[1] - u[0]) * (1 + STEP_MARGIN),
                adaptive=self.adaptive,
                rtol=self.rtol,
                atol=self.atol,
                dt_min=self.dt_min,
                # The noise does not depend on the state: Milstein's derivative of it is 0 and needs no graph.
                options={"grad_free": True} if self.method == "milstein" else None,
            )
        return out[-1]

    def _trees(self, torchsde: Any, y: Tensor, times: Tensor, noise: NoiseSource) -> list[Any]:
        """A Brownian tree for each sample over the whole run, seeded from the bits of one draw."""
        seeds = noise.draw((len(y),), torch.float64, torch.device("cpu")).view(torch.int64).abs().tolist()
        return [
            torchsde.BrownianInterval(
                t0=1 - float(times[0]),
                t1=1 - float(times[-1]),
                size=(1, y.shape[1]),
                dtype=y.dtype,
                device=y.device,
                entropy=seed,
                levy_area_approximation=LEVY_AREA.get(self.method, "none"),
            )
            for seed in seeds
        ]


class _Part:
    """What torchsde integrates: the reverse SDE of some samples, with the last drifts kept and the network calls counted."""

    def __init__(self, reverse: ReverseSDE, method: str) -> None:
        self.reverse, self.calls = reverse, 0
        self.noise_type, self.sde_type = reverse.noise_type, "ito" if method in ITO else "stratonovich"
        # As many as the method with the most stages, "srk", has.
        self.recent: deque[tuple[float, Tensor, Tensor]] = deque(maxlen=4)

    def f(self, u: Time, y: Tensor) -> Tensor:
        for time, state, drift in self.recent:
            if time == float(u) and state is y:
                return drift
        self.recent.append((float(u), y, self.reverse.f(u, y)))
        self.calls += 1
        return self.recent[-1][2]

    def g(self, u: Time, y: Tensor) -> Tensor:
        return self.reverse.g(u, y)


class _Draws:
    """The Brownian motion of steps that follow one another: each increment is a draw of the noise source.

    W = sqrt(h) xi, and for a method that asks for it the integral U = int (W_s - W_0) ds = h (W/2 + sqrt(h/12) xi').
    """

    def __init__(self, y: Tensor, noise: NoiseSource, method: str) -> None:
        self.shape, self.dtype, self.device, self.noise = y.shape, y.dtype, y.device, noise
        self.levy_area_approximation = LEVY_AREA.get(method, "none")
        self.last: tuple[float, float, Tensor, Tensor | None] | None = None

    def __call__(self, u_0: Tensor, u_1: Tensor, return_U: bool = False, return_A: bool = False) -> Any:
        h = float(u_1 - u_0)
        if self.last is None or self.last[:2] != (float(u_0), float(u_1)):
            w = h**0.5 * self.noise.draw(self.shape, self.dtype, self.device)
            u = None
            if self.levy_area_approximation == "space-time":
                u = h * (0.5 * w + (h / 12) ** 0.5 * self.noise.draw(self.shape, self.dtype, self.device))
            self.last = (float(u_0), float(u_1), w, u)
        # The Levy area only meets derivatives of the diffusion, which are 0 here.
        return (self.last[2], None) if return_A else self.last[2:] if return_U else self.last[2]
