"""What a scheduler of diffusers says of the network that it was made for: the path, the prediction, the network's time, the times of steps.

    reading = read(pipe.scheduler)

The scheduler is read as it is in memory. A configuration alone is not enough: `from_config` fills keys that were left at the default of one
class with the default of another, and classes differ in their betas. What is not known is refused by the name of its key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import grids
from ...loops.learned_ancestral import LearnedAncestral
from ...sde.base import SDE
from ...sde.families import EDM, RectifiedFlow
from ...sde.prediction import Direction, Preconditioned, Prediction
from ...sde.vp import VPSDE, VPChain
from ...solvers.ancestral import Ancestral
from .betas import betas
from .clocks import Arctangent, Clock, Index, NoiseScale, QuarterLog, Scaled

# Classes by how they space N steps over the indices 0..T-1 with the spacing "linspace": N points with both ends, rounded or not, or N + 1
# points of which the lowest is left out.
BOTH_ENDS = (
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler",
)  # fmt: skip
BOTH_ENDS_FRACTIONAL = (
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler", "DPMSolverSDEScheduler",
)  # fmt: skip
WITHOUT_LOWEST = (
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler",
)  # fmt: skip
CHAINS = (*BOTH_ENDS, *BOTH_ENDS_FRACTIONAL, *WITHOUT_LOWEST)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
PRECONDITIONED = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler")

# diffusers' names of predictions.
ON_CHAINS: dict[str, Prediction] = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
# Rules for N noise levels between the largest and the smallest, by the flag that turns them on.
NOISE_RULES = {
    "use_karras_sigmas": grids.karras,
    "use_exponential_sigmas": grids.half_log_snr,
    "use_lu_lambdas": grids.half_log_snr,
    "use_beta_sigmas": grids.beta,
}
# Variances of ancestral sampling, by diffusers' names.
VARIANCES = {"fixed_small": "posterior", "fixed_small_log": "posterior", "fixed_large": "beta", "fixed_large_log": "beta"}


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read. `str` is one sentence of it.

    Attributes:
        kind: the scheduler's class.
        config: its configuration.
        sde: the path.
        prediction: what the network returns.
        clock: the time that the network is told.
        clip_range: the data prediction is held to [-clip_range, clip_range] in the scheduler's own steps; None where it is not.
        learned_variance: whether the network returns a variance beside its prediction, in as many channels.
    """

    kind: str
    config: Mapping[str, Any]
    sde: SDE
    prediction: Prediction
    clock: Clock
    clip_range: float | None = None
    learned_variance: bool = False

    def __str__(self) -> str:
        clip = "" if self.clip_range is None else f", clipped to [-{self.clip_range:g}, {self.clip_range:g}]"
        return f"{self.kind}: {self.sde!r}, the network returns {self.prediction!r} and is told {self.clock}{clip}"

    # The network.

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is told at the times `t`, float64."""
        return self.clock.time(self.sde, t)

    def time_of(self, u: Tensor) -> Tensor:
        """The times at which the network is told `u`, float64."""
        return self.clock.inverse(self.sde, u)

    def scale_model_input(self, z: Tensor, u: float | Tensor) -> Tensor:
        """What the network sees of a state at the network time `u`: the state itself, scaled where the network is preconditioned."""
        if not isinstance(self.prediction, Preconditioned):
            return z
        t = self.time_of(torch.as_tensor(u, dtype=torch.float64, device="cpu"))
        return z * float(self.prediction.input_scale(self.sde.alpha(t), self.sde.sigma(t)))

    @property
    def ancestral(self) -> Ancestral | LearnedAncestral:
        """The solver of `variance_type`.

        Raises:
            ValueError: the scheduler has no variance, or another one; names it.
        """
        if self.learned_variance:
            return LearnedAncestral()
        name = self.config.get("variance_type")
        if name not in VARIANCES:
            raise ValueError(f"{self.kind} has variance_type={name!r}: known are {', '.join(VARIANCES)}, learned and learned_range")
        return Ancestral("posterior" if VARIANCES[name] == "posterior" else "beta")

    # The times of steps.

    def mu(self, tokens: int) -> float:
        """The logarithm of the shift for an image of so many tokens: linear, by default through (256, 0.5) and (4096, 1.15).

        The height and the width of the latents divided by the patch size, and multiplied, are the number of tokens.
        """
        defaults = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        n0, n1, mu0, mu1 = (float(self.config.get(name) or default) for name, default in defaults.items())
        return mu0 + (mu1 - mu0) * (tokens - n0) / (n1 - n0)

    @cached_property
    def t_end(self) -> float:
        """Where the last step ends: 0, or the first time of a chain, where the scheduler does not go on to the data."""
        stays = self.config.get("set_alpha_to_one") is False or self.config.get("final_sigmas_type") == "sigma_min"
        return self.sde.t_min if stays else 0.0

    def grid(self, steps: int, mu: float | None = None) -> Tensor:
        """The times of `steps` steps, `(steps + 1,)` float64, as the scheduler would have them, not rounded afterwards.

        Args:
            mu: logarithm of the shift of a flow whose shift depends on the size of the image.

        Raises:
            ValueError: more steps than the chain has, or a flow that needs `mu`.
        """
        if isinstance(self.sde, RectifiedFlow):
            return self.from_sigmas(torch.linspace(1, 1 / self._train_steps, steps, dtype=torch.float64), mu)
        if self.kind in PRECONDITIONED:
            rule: grids.Grid = partial(grids.karras, rho=float(self.config.get("rho", 7.0)))
            if self.config.get("sigma_schedule", "karras") != "karras" or self.kind.startswith("Cosine"):
                rule = grids.half_log_snr
            return self._ended(rule(self.sde, steps)[:-1])
        if not isinstance(self.sde, VPChain):
            return self._ended(grids.karras(self.sde, steps)[:-1])
        for flag, noise_rule in NOISE_RULES.items():
            if self.config.get(flag):
                return self._ended(noise_rule(self.sde, steps)[:-1])
        return self.from_timesteps(self.indices(steps))

    def indices(self, steps: int) -> Tensor:
        """The indices of a chain at which N = `steps` steps start, by `timestep_spacing` and `steps_offset`, `(N,)` float64.

        They are those of the scheduler where its own are distinct. Where rounding makes two equal they are not rounded, and an offset that
        leaves the chain is lowered.

        Raises:
            ValueError: more steps than the chain has, or an unknown spacing.
        """
        t, n = self._train_steps, steps
        if not 1 <= n <= t:
            raise ValueError(f"a chain of {t} steps takes 1 to {t} of them, got {n}")
        extra = 1 if self.kind in WITHOUT_LOWEST else 0
        # DPMSolverSinglestep has no key.
        spacing = self.config.get("timestep_spacing", "linspace")
        if spacing == "linspace":
            plain = torch.from_numpy(np.linspace(0, t - 1, n + extra))[extra:].flip(0)
            rounded = plain if self.kind in BOTH_ENDS_FRACTIONAL else plain.round()
        elif spacing == "leading":
            ratio = max(1, t // (n + extra))
            plain = torch.arange(extra, n + extra, dtype=torch.float64).flip(0) * ratio
            plain += min(int(self.config.get("steps_offset", 0)), t - 1 - float(plain[0]))
            rounded = plain
        elif spacing == "trailing":
            plain = t - torch.arange(n, dtype=torch.float64) * (t / n) - 1
            # numpy counts down from T, and rounds halves to even.
            rounded = (plain + 1).round() - 1
        else:
            raise ValueError(f"timestep_spacing={spacing!r} is not known: leading, trailing or linspace")
        return rounded if bool((rounded[1:] < rounded[:-1]).all()) else plain

    def from_timesteps(self, u: Sequence[float] | Tensor) -> Tensor:
        """The times at which the network is told `u`, and the end."""
        return self._ended(self.time_of(torch.as_tensor(u, dtype=torch.float64, device="cpu")))

    def from_sigmas(self, sigmas: Sequence[float] | Tensor, mu: float | None = None) -> Tensor:
        """The times at given noise levels, and the end: sigma of a flow, shifted once, and sigma/alpha elsewhere. A 0 at the end is left out.

        Raises:
            ValueError: a flow that needs `mu`, or that has a rule for noise levels beside.
        """
        sigmas = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
        sigmas = sigmas[:-1] if float(sigmas[-1]) == 0 else sigmas
        if isinstance(self.sde, RectifiedFlow):
            for flag in NOISE_RULES:
                if self.config.get(flag):
                    raise ValueError(f"{self.kind} has {flag}=True on a flow, which is not known: make it without, and give grid=")
            return self._ended(self._stretched(self._shifted(sigmas, mu)))
        return self._ended(self.sde.time(-sigmas.log()))

    def _ended(self, times: Tensor) -> Tensor:
        """The times of calls with the end. A step to the first time of a chain from that very time would be none: it goes to 0 then."""
        end = self.t_end if self.t_end < float(times[-1]) else 0.0
        return torch.cat([times.clamp(max=1.0), times.new_tensor([end])])

    def _shifted(self, sigmas: Tensor, mu: float | None) -> Tensor:
        """sigma' = s sigma/(1 + (s - 1) sigma), which is lambda' = lambda - log s (Esser et al. 2024, arXiv 2403.03206, eq. 23)."""
        if self.config.get("use_dynamic_shifting"):
            if mu is None:
                raise ValueError(f"{self.kind} has use_dynamic_shifting=True: give mu=")
            s = mu if self.config.get("time_shift_type") == "linear" else math.exp(mu)
        else:
            s = float(self.config.get("shift") or self.config.get("flow_shift") or 1.0)
        return s * sigmas / (1 + (s - 1) * sigmas)

    def _stretched(self, sigmas: Tensor) -> Tensor:
        """1 - sigma scaled such that the last call is at `shift_terminal`."""
        terminal = self.config.get("shift_terminal")
        if not terminal:
            return sigmas
        return 1 - (1 - sigmas) * ((1 - terminal) / (1 - float(sigmas[-1])))

    @property
    def _train_steps(self) -> int:
        return int(self.config["num_train_timesteps"])


def read(scheduler: Any) -> Reading:
    """What a scheduler of diffusers says of its network.

    Raises:
        TypeError: no scheduler.
        ValueError: a class, a key or a combination that is not known; names it.
    """
    config = getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise TypeError(f"read needs a scheduler of diffusers, usually pipe.scheduler, got {scheduler!r}")
    kind = type(scheduler).__name__
    if kind in FLOWS or config.get("use_flow_sigmas"):
        return _flow(kind, config)
    if kind in PRECONDITIONED:
        return _preconditioned(kind, config)
    if kind == "ScoreSdeVeScheduler":
        return Reading(kind, config, EDM(config["sigma_min"], config["sigma_max"]), "score", NoiseScale())
    if kind in CHAINS:
        return _chain(kind, config, scheduler)
    raise ValueError(
        f"{kind} is not known here: declare its process by hand, ScoreModel(network, sde, prediction, time). Known are "
        f"{', '.join((*CHAINS, *FLOWS, *PRECONDITIONED))}"
    )


def _flow(kind: str, config: Mapping[str, Any]) -> Reading:
    prediction_type = config.get("prediction_type", "flow_prediction")
    if prediction_type != "flow_prediction":
        raise ValueError(
            f"{kind} has use_flow_sigmas=True with prediction_type={prediction_type!r}: only 'flow_prediction' is known"
        )
    inverted = bool(config.get("invert_sigmas"))
    prediction: Prediction = Direction(data_part, noise_part) if inverted else "velocity"
    return Reading(kind, config, RectifiedFlow(), prediction, Scaled(int(config["num_train_timesteps"]), inverted))


def data_part(sde: SDE, t: Tensor) -> float:
    """1 in the prediction x - eps of an inverted flow."""
    return 1.0


def noise_part(sde: SDE, t: Tensor) -> float:
    """-1 in the prediction x - eps of an inverted flow."""
    return -1.0


def _preconditioned(kind: str, config: Mapping[str, Any]) -> Reading:
    signs = {"epsilon": 1, "v_prediction": -1}
    prediction_type = config["prediction_type"]
    if prediction_type not in signs:
        raise ValueError(f"{kind} has prediction_type={prediction_type!r}: known are {', '.join(signs)}")
    prediction = Preconditioned(float(config["sigma_data"]), signs[prediction_type])  # type: ignore[arg-type]
    clock: Clock = Arctangent() if kind.startswith("Cosine") else QuarterLog()
    return Reading(kind, config, EDM(float(config["sigma_min"]), float(config["sigma_max"])), prediction, clock)


def _chain(kind: str, config: Mapping[str, Any], scheduler: Any) -> Reading:
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in ON_CHAINS:
        raise ValueError(f"{kind} has prediction_type={prediction_type!r}: known on a chain are {', '.join(ON_CHAINS)}")
    if config.get("lambda_min_clipped", -math.inf) > -math.inf:
        raise ValueError(
            f"{kind} has lambda_min_clipped={config['lambda_min_clipped']}: make it without, and give grid= where it matters"
        )
    sde = VPSDE.from_betas(betas(config, scheduler))
    if config.get("rescale_betas_zero_snr") and prediction_type == "epsilon":
        raise ValueError(
            f"{kind} has rescale_betas_zero_snr=True with prediction_type='epsilon': at t = 1 the noise says nothing of the data"
        )
    if config.get("timestep_type") == "continuous" and prediction_type == "v_prediction":
        # At unit scale of the data the velocity of a variance-preserving path is -F, of the noise level alone.
        low, high = (
            config.get(name) or float((-sde.half_log_snr(t)).exp()) for name, t in (("sigma_min", sde.t_min), ("sigma_max", 1.0))
        )
        return Reading(kind, config, EDM(low, high), Preconditioned(1.0, -1), QuarterLog())
    if config.get("thresholding"):
        raise ValueError(
            f"{kind} has thresholding=True, which is no part of a solver: make it without, and hold the model itself to a range, "
            "scoresde.models.thresholded(model, quantile=0.995)"
        )
    clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None
    learned = str(config.get("variance_type", "")).startswith("learned")
    return Reading(kind, config, sde, ON_CHAINS[prediction_type], Index(len(sde.betas)), clip, learned)
