"""Networks of OpenAI's improved-diffusion and guided-diffusion, by the flags of their scripts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...models.learned_variance import LearnedVariance
from ...models.score_model import ScoreModel
from ...models.times import MultipleOfIndex
from ...numerics.inputs import as_count, as_one_of
from ...sde.vp import VPSDE, VPChain

SCHEDULES = ("linear", "cosine")


def openai(
    network: nn.Module,
    *,
    diffusion_steps: int = 1000,
    noise_schedule: str = "linear",
    learn_sigma: bool = False,
    predict_xstart: bool = False,
    rescale_timesteps: bool = False,
) -> ScoreModel:
    """A network of improved-diffusion or guided-diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233), whose condition is `y=`.

    Flags that are missing here belong to their losses and samplers. `timestep_respacing` chooses the steps of sampling and no other chain:
    `grid=formats.respaced(model.sde, "ddim25")`.

    Args:
        network: in evaluation mode.
        diffusion_steps: T.
        noise_schedule: "linear", whose betas run from 0.1/T to 20/T, or "cosine".
        learn_sigma: the network returns twice the channels. The model is a `LearnedVariance` then.
        predict_xstart: the network returns the data and not the noise.
        rescale_timesteps: the network is told 1000 i/T at the index i, and not i.

    Raises:
        TypeError: a flag of another type.
        ValueError: another schedule, or no steps.
    """
    steps = as_count("diffusion_steps", diffusion_steps)
    as_one_of("noise_schedule", noise_schedule, SCHEDULES)
    chain = VPSDE.cosine(steps) if noise_schedule == "cosine" else VPSDE.from_betas(linear(steps))
    family = LearnedVariance if learn_sigma else ScoreModel
    time = MultipleOfIndex(1000 / steps) if rescale_timesteps else "index"
    return family(network, chain, "data" if predict_xstart else "noise", time=time)


def linear(steps: int) -> Tensor:
    """T betas from 0.1/T to 20/T, `(T,)` float64: those of Ho et al. for T = 1000."""
    return torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)


def respaced(sde: VPChain, respacing: str) -> Tensor:
    """The times of steps on the whole chain by their flag `timestep_respacing`, with the end at 0, float64.

    Args:
        respacing: "250" for that many steps, "10,15,20" for so many in each of three equal parts of the chain from the data on, or "ddim25" for
            the first stride of whole indices that gives 25 steps from index 0 on.

    Raises:
        TypeError: `sde` is no chain.
        ValueError: the chain has no such steps.
    """
    if not isinstance(sde, VPChain):
        raise TypeError(f"respaced needs a chain, got {sde!r}")
    indices = torch.tensor(sorted(_indices(sde.steps, respacing), reverse=True), dtype=torch.float64)
    return torch.cat([(indices + 1) / sde.steps, indices.new_zeros(1)])


def _indices(steps: int, respacing: str) -> set[int]:
    count = respacing.removeprefix("ddim")
    if not all(part.isdecimal() and int(part) > 0 for part in count.split(",")):
        raise ValueError(f"respacing must be like '250', '10,15,20' or 'ddim25', got {respacing!r}")
    if respacing != count:
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == int(count):
                return set(range(0, steps, stride))
        raise ValueError(f"no stride of whole indices gives {count} of {steps} steps: take respacing={count!r}")
    counts = [int(part) for part in count.split(",")]
    size, longer = divmod(steps, len(counts))
    chosen, first = set[int](), 0
    for k, n in enumerate(counts):
        length = size + (k < longer)
        if n > length:
            raise ValueError(f"respacing={respacing!r} asks for {n} steps of a part of {length}")
        fraction = (length - 1) / (n - 1) if n > 1 else 1.0
        # They add up the strides, so that rounding to whole indices meets the same halves.
        position = 0.0
        for _ in range(n):
            chosen.add(first + round(position))
            position += fraction
        first += length
    return chosen
