"""Solvers of scoresde as a scheduler of diffusers' pipelines.

    pipe.scheduler = Scheduler.from_scheduler(pipe.scheduler, "unipc3")
    image = pipe(prompt, num_inference_steps=8).images[0]

With e_0 < e_1 < ... the states at which the solver's table calls the network,

    timesteps[i] = network_time(t_{e_i})                        one entry a network call, fractional, in float32
    init_noise_sigma = c prior_std sigma(t_0)/sigma(1)          z_{e_0} = c z_0, and c = 1 where the first call is at the start
    step(out, timesteps[i], z_{e_i})  ->  z_{e_{i+1}}           `HostRun`

A loop that starts at `timesteps[b]` (image to image) starts from a state with no history: the solver is planned on the rest of the grid.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ...numerics.inputs import as_event
from ...sampling.default import LARGE
from ...sampling.plans import Plan
from ...sampling.registry import DEFAULT, name_of
from ...sampling.request import GridLike
from ...solvers.base import Solver
from ...tableau.tableau import Tableau
from .choice import call_sigmas, choose, table_from_call
from .configuration import choice, clip_of, scheduler_from_json, scheduler_to_json
from .reading import read
from .source import ReadScheduler
from .stepping import Generators, HostNoise, HostRun, from_first_call
from .stored import grid_to_json, solver_to_json

# How far the noise that a pipeline does not scale may be from the start's own: a chain that starts at a time below 1 has a little less.
START_TOLERANCE = 0.02


@dataclass
class SchedulerOutput(BaseOutput):
    """What `step` returns.

    Attributes:
        prev_sample: the next state, of the dtype of the one before.
        pred_original_sample: the data prediction at the state before.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class Scheduler(ReadScheduler):
    """A solver that is a table, as a scheduler. Make one with `from_scheduler`; `pipe.save_pretrained` and `from_pretrained` keep it.

    `num_inference_steps` is a number of steps; for the default, for fitted solvers and for those with a late first call one of network calls.
    Times are, in this order: `timesteps=` of a call; the solver's own, where it was fitted; `grid`; `sigmas=` of a call, shifted once; a rule
    for noise levels of the scheduler in whose place this one stands, such as `use_karras_sigmas`, or its shift of a flow; those of
    `scoresde.sample`. Its `timestep_spacing` counts as none: `read(scheduler).grid(steps)` has these times, for `grid`.

    The state that a pipeline holds at call i is at the time `timesteps[i]`. States are kept in float32 between calls, so half precision does
    not add up. A state that the pipeline or a callback has changed is taken as it is.

    Noise is drawn from `generator=` of the pipeline, which may be a list with one a sample. Some pipelines pass none (SD3, Flux, DiT): then
    from `seed`, so that sample i depends on the seed and on i alone. With neither, every call differs. Torch's global state is not touched.

    Args:
        solver: as in `from_scheduler`, or its JSON (`stored`).
        grid: as in `from_scheduler`, or its JSON.
        seed: of the noise where the pipeline passes no generator.
        clip: as in `from_scheduler`.
        scaled_noise: as in `from_scheduler`.
        event: as in `from_scheduler`.
        source: the class and the configuration of the scheduler in whose place this one stands.

    Raises:
        TypeError: no source, or a solver or a grid that JSON does not hold.
        ValueError: a process, a prediction or a solver that cannot be stepped from outside; names it and the remedy.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        solver: Any = DEFAULT,
        grid: Any = None,
        seed: int | None = None,
        clip: bool | float | None = None,
        scaled_noise: bool = False,
        event: Sequence[int] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        if source is None:
            raise TypeError("a scheduler needs the one in whose place it stands: Scheduler.from_scheduler(pipe.scheduler, solver)")
        self._reading = read(scheduler_from_json(source))
        self._clip = clip_of(self._reading, clip)
        self._solver, self._grid = choice(solver, grid)
        self._event = None if event is None else as_event("event", event)
        shape = None if self._event is None else list(self._event)
        self.register_to_config(
            solver=solver_to_json(self._solver), grid=grid_to_json(self._grid), event=shape, source=dict(source)
        )
        self.order = 1 if self._solver is None else self._solver.calls_per_step
        self.num_inference_steps: int | None = None
        self._begin_index: int | None = None
        # Pipelines read the highest time before the first `set_timesteps`.
        self.timesteps = torch.arange(len(self) - 1, -1, -1, dtype=torch.float32)
        self._tableau: Tableau | None = None
        self._clear()

    @classmethod
    def from_scheduler(
        cls,
        scheduler: SchedulerMixin,
        solver: str | PathLike[str] | Solver | Plan | None = None,
        *,
        grid: GridLike | None = None,
        seed: int | None = None,
        clip: bool | float | None = None,
        scaled_noise: bool = False,
        event: Sequence[int] | None = None,
    ) -> Scheduler:
        """A scheduler in the place of `scheduler`, for the same network.

        Args:
            scheduler: the one that the network was made for, usually `pipe.scheduler`; one of ours stands for its own source.
            solver: a solver that is a table, its name, the file of a fitted one, or a plan of `scoresde.plan` with its times. None or
                "default" is the measured default for the number of calls and for what the network predicts.
            grid: its name, a rule or the times; see `scoresde.sample`.
            seed: of the noise of stochastic solvers, where the pipeline passes no generator.
            clip: what to do where `scheduler` clips the data prediction, which is no part of a solver: False samples without, True clips to its
                range and a number c to [-c, c]. Without an answer it is an error.
            scaled_noise: whether the caller passes `latents=` that have been multiplied by `init_noise_sigma`, although the pipeline does not
                do so itself (SD3, Flux, DDPM). Only then has the default a late first call.
            event: the shape of a sample, by whose size the default is chosen. None is for images: give it for small vectors.

        Raises:
            TypeError: no scheduler, or a solver or a grid that a configuration cannot hold.
            ValueError: as the class.
        """
        source = scheduler.config["source"] if isinstance(scheduler, Scheduler) else scheduler_to_json(scheduler)
        return cls(DEFAULT if solver is None else solver, grid, seed, clip, scaled_noise, event, source)

    # What a pipeline reads.

    @property
    def step_index(self) -> int | None:
        """The number of the next network call; None before the first step."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The network call at which the loop starts, where the pipeline has said it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The loop starts at `timesteps[begin_index]`."""
        self._begin_index = begin_index

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the state at the first network call."""
        sde, tableau = self._reading.sde, self._tableau
        if tableau is None:
            return sde.prior_std
        self._start_is_scaled = True
        return self._start_std()

    def _start_std(self) -> float:
        sde = self._reading.sde
        assert self._tableau is not None
        return self._gain * sde.prior_std * float(sde.sigma(self._tableau.times[0]) / sde.sigma(1.0))

    # Times.

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Plan the next run: its network calls are at `timesteps`, and `sigmas` are their noise scales with that of the end.

        Args:
            num_inference_steps: how many steps, or calls (see the class).
            device: of `timesteps`.
            timesteps: the network times at which steps start; then the end of the path.
            sigmas: noise scales at which steps start, sigma of a flow and sigma/alpha elsewhere; the end of the path follows.
            mu: logarithm of the shift of a flow whose shift depends on the size of the image.

        Raises:
            ValueError: no number, another one than a solver or a grid was made for, or a solver that cannot be stepped from outside.
        """
        given = {"event": self._event, "late": self.config["scaled_noise"]}
        solver, tableau = choose(self._reading, self._solver, self._grid, num_inference_steps, timesteps, sigmas, mu, **given)
        self._clear()
        self._running, self._tableau = solver, tableau
        self._from_call, self._gain = from_first_call(tableau)
        self.num_inference_steps = tableau.steps
        t = torch.tensor([tableau.times[k] for k in tableau.evaluated], dtype=torch.float64)
        self._calls = self._reading.network_time(t).to(torch.float32).tolist()
        self.timesteps = torch.tensor(self._calls, dtype=torch.float32, device=device)
        self.sigmas = call_sigmas(self._reading.sde, tableau).to(self.timesteps)

    def _clear(self) -> None:
        self._step_index: int | None = None
        self._begin_index = None
        self._run: HostRun | None = None
        self._start_is_scaled = self._start_is_noised = False

    # Steps.

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        **ignored: Any,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """The state at the next entry of `timesteps`, or the sample after the last, from the state at this one.

        Args:
            model_output: of the network at `sample` and `timestep`.
            timestep: the entry of `timesteps` whose turn it is.
            sample: the state.
            generator: of the noise; a list has one a sample.
            return_dict: return an object; else a tuple of the state and of the data prediction.
            **ignored: options of other schedulers, which some pipelines pass always.

        Raises:
            RuntimeError: before `set_timesteps`, or after the last step.
            ValueError: another timestep than the next; a start that the solver does not have, or whose noise has another scale.
        """
        if self._tableau is None:
            raise RuntimeError("call set_timesteps before the first step")
        if self._step_index is None:
            self._begin(timestep)
            self._warn_of_event(sample)
        assert self._step_index is not None
        if self._step_index == len(self._calls):
            raise RuntimeError(f"all {len(self._calls)} steps are done: call set_timesteps before another run")
        if not self._is_call(timestep, self._step_index):
            raise ValueError(
                f"step was called with the timestep {float(timestep):g}, but {self._calls[self._step_index]:g} is next: every entry of "
                "timesteps is stepped once, in order"
            )
        if self._run is None:
            raise RuntimeError("this scheduler was copied between two steps of a run: call set_timesteps first")
        z, data = self._run.step(model_output, sample, generator)
        self._step_index += 1
        return SchedulerOutput(prev_sample=z, pred_original_sample=data) if return_dict else (z, data)

    def _begin(self, timestep: float | Tensor) -> None:
        """Start a run at the network call whose turn it is."""
        assert self._tableau is not None
        call = self._begin_index if self._begin_index is not None else self._call_at(timestep)
        if not 0 <= call < len(self._calls):
            raise ValueError(f"set_begin_index({call}), but there are {len(self._calls)} network calls")
        table = self._from_call
        if call or (self._gain != 1 and self._start_is_noised and not self._start_is_scaled):
            table = table_from_call(self._running, self._tableau, call)
        elif not (self._start_is_scaled or self._start_is_noised or self.config["scaled_noise"]):
            self._require_unit_start()
        noise = HostNoise(self.config["seed"])
        self._run = HostRun(table, self._reading.prediction, noise, self._clip)
        self._step_index = call

    def _warn_of_event(self, sample: Tensor) -> None:
        """Warn where the default was chosen for images and the samples are small."""
        event = tuple(sample.shape[1:])
        if self._solver is None and self._event is None and math.prod(event) < LARGE:
            warnings.warn(
                f"the default was chosen for images, and a sample has the shape {event}: Scheduler.from_scheduler(..., event={event}) takes "
                "that of small events",
                UserWarning,
                stacklevel=3,
            )

    def _require_unit_start(self) -> None:
        """Raise where the first state is no unit noise, as the pipeline has not asked for its scale.

        Raises:
            ValueError: says what to do.
        """
        std = self._start_std()
        if self._gain != 1 or abs(std - 1) > START_TOLERANCE:
            late = f"the first network call of {name_of(self._running)} comes after a step, and " if self._gain != 1 else ""
            raise ValueError(
                f"{late}the first state has the standard deviation {std:.6g}, but this pipeline starts from unit noise: pass latents= that are "
                "multiplied by init_noise_sigma and make the scheduler with scaled_noise=True, or take a solver, or a process, that starts "
                "from unit noise"
            )

    def _call_at(self, timestep: float | Tensor) -> int:
        """The network call at a timestep; of several at the same time, the one at which a step starts."""
        assert self._tableau is not None
        nearest = [i for i in range(len(self._calls)) if self._is_call(timestep, i)]
        starts = [i for i in nearest if self._tableau.evaluated[i] in self._tableau.step_evals]
        return (starts or nearest)[0]

    def _is_call(self, timestep: float | Tensor, call: int) -> bool:
        """Whether no other time is nearer to `timestep`, which may have been rounded."""
        if isinstance(timestep, Tensor) and timestep.numel() == 1 and timestep.data_ptr() == self.timesteps[call].data_ptr():
            return True  # without waiting for the device
        u = float(timestep)
        distance = abs(self._calls[call] - u)
        return distance <= min(abs(each - u) for each in self._calls) * (1 + 1e-6)
