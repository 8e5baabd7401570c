"""The part of a scheduler that follows from the one in whose place it stands: noise, the network's input, configuration and files."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import hf_hub_download
from torch import Tensor

from ...numerics.arrays import expand
from ...solvers.base import Solver
from ...solvers.tuned import TunedSolver
from ...tuning import load_solver
from .reading import Reading
from .stored import SOLVER_FILE

# Keys of a scheduler in whose place ours stands that say how *that* one steps. Some pipelines rewrite a configuration that has them.
NOT_OURS = ("steps_offset", "clip_sample", "thresholding", "skip_prk_steps", "set_alpha_to_one")
# Options of `from_pretrained` that say where the Hub is and what is kept of it.
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


class ReadScheduler(SchedulerMixin, ConfigMixin):
    """What every scheduler of ours has. `Scheduler` steps.

    Attributes:
        _reading: what was read of the source.
        _solver: the solver, None for the default.
        _step_index: the number of the next network call; None before the first step.
    """

    _reading: Reading
    _solver: Solver | None
    _step_index: int | None
    _start_is_noised: bool

    @property
    def config(self) -> FrozenDict:
        """Ours, and what pipelines look for in that of the source."""
        source = {name: value for name, value in self._internal_dict["source"].items() if name[0] != "_" and name not in NOT_OURS}
        if str(source.get("variance_type", "")).startswith("learned"):
            source["variance_type"] = "fixed_small"  # a pipeline then leaves the network's variance out of the output
        return FrozenDict({**source, **self._internal_dict})

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps", 1000))

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The network's input: the state itself, scaled where the network is preconditioned."""
        return self._reading.scale_model_input(sample, timestep)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """alpha x + sigma eps at the network times `timesteps`, a scalar or one a sample."""
        self._start_is_noised = self._step_index is None
        t = self._reading.time_of(torch.as_tensor(timesteps).detach().cpu().double().reshape(-1))
        t = t[0] if len(t) == 1 else t  # inpainting gives one for all
        wide = torch.promote_types(original_samples.dtype, torch.float32)
        alpha, sigma = (expand(scale, original_samples, wide) for scale in (self._reading.sde.alpha(t), self._reading.sde.sigma(t)))
        return (alpha * original_samples.to(wide) + sigma * noise.to(wide)).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """`add_noise` with the arguments in the order of flow pipelines."""
        return self.add_noise(sample, noise, timestep)

    def __getstate__(self) -> dict[str, Any]:
        """A copy between two steps has no run: what it holds cannot be copied."""
        return {**self.__dict__, "_run": None}

    # Files.

    def save_pretrained(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **options: Any) -> None:
        """Write the configuration, and beside it the file of a fitted solver."""
        if isinstance(self._solver, TunedSolver):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self._solver.save(Path(save_directory) / SOLVER_FILE)
        super().save_pretrained(save_directory, push_to_hub, **options)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str], subfolder: str | None = None, **options: Any
    ) -> Any:
        """The inverse of `save_pretrained`: from a folder, or from a repository of the Hub.

        Raises:
            FileNotFoundError: a fitted solver whose file is not beside the configuration.
        """
        hub = {name: options[name] for name in HUB_OPTIONS if name in options}
        config, options, _ = cls.load_config(
            pretrained_model_name_or_path, subfolder=subfolder, return_unused_kwargs=True, return_commit_hash=True, **options
        )
        if config.get("solver") == SOLVER_FILE:
            name = str(pretrained_model_name_or_path)
            if Path(name).is_dir():
                file = Path(name, subfolder or "", SOLVER_FILE)
            else:
                file = Path(hf_hub_download(name, SOLVER_FILE, subfolder=subfolder, **hub))
            config = {**config, "solver": load_solver(file)}
        return cls.from_config(config, **options)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **options: Any) -> Any:
        """A scheduler from a configuration of ours.

        Raises:
            TypeError: the configuration of another scheduler, which does not say its class.
        """
        if "source" not in config:
            raise TypeError("this configuration is of another scheduler: use Scheduler.from_scheduler(pipe.scheduler, solver)")
        own = {name: value for name, value in config.items() if name in cls._get_init_keys(cls)}
        return super().from_config(own, return_unused_kwargs, **options)
