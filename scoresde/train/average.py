"""Averages of the weights along a run.

`Average` is the exponential one, w_avg <- d w_avg + (1 - d) w. `PowerAverages` have weights in proportion to k^gamma at step k, so that a
profile keeps its shape as training goes on (Karras et al. 2024, arXiv 2312.02696, section 3):

    w_avg(k) = b w_avg(k - 1) + (1 - b) w(k),        b = (1 - 1/k)^(gamma + 1).

Their length is the standard deviation of that profile in units of the training time,

    sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2).

Snapshots of two of them, taken along the run, give the average of any other length afterwards (`train.posthoc`). torch's `AveragedModel` does
not update weights that are divided among processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..models.score_model import ScoreModel
from .world import divided_as, local


class Average(nn.Module):
    """A copy of a model with averaged weights. Its buffers are those of the model.

    Args:
        model: what to copy, before its weights are divided among processes.
    """

    module: ScoreModel
    n_averaged: Tensor

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", torch.tensor(0, dtype=torch.long, device="cpu"))

    @torch.no_grad()
    def update(self, model: ScoreModel, decay: float) -> None:
        """w_avg <- d w_avg + (1 - d) w; the first time w_avg = w."""
        if int(self.n_averaged) == 0:
            decay = 0.0
        lerp(self.module.parameters(), model.parameters(), decay)
        for averaged, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            averaged.copy_(buffer)
        self.n_averaged += 1


def lerp(averaged: Iterable[Tensor], current: Iterable[Tensor], decay: float) -> None:
    """averaged <- decay averaged + (1 - decay) current, in place, without communication."""
    a, w = ([local(value.detach()) for value in values] for values in (averaged, current))
    if decay == 0:
        # Not 0 averaged + current: averaged may not be finite.
        torch._foreach_copy_(a, w)
    else:
        torch._foreach_lerp_(a, w, 1 - decay)


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma of the profile whose length is `sigma_rel`.

    Raises:
        ValueError: a length outside (0, 1/sqrt(12)), that of a uniform average.
    """
    from scipy.optimize import brentq

    longest = 12**-0.5
    if not 0 < sigma_rel < longest:
        raise ValueError(f"the length of an average must be above 0 and below {longest:.4f}, got {sigma_rel}")

    def excess(gamma: float) -> float:
        return float((gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5) - sigma_rel)

    # For large gamma the length approaches 1/gamma.
    return float(brentq(excess, 0.0, 2 / sigma_rel + 2, xtol=1e-12, rtol=1e-14))


class PowerAverages:
    """Power-function averages of the trained weights of a model, one for each length.

    Args:
        model: whose weights are averaged.
        lengths: sigma_rel of each average; 0.05 and 0.10 in the paper.
    """

    def __init__(self, model: ScoreModel, lengths: Sequence[float]) -> None:
        self.gammas = [gamma_of(length) for length in lengths]
        self.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        self.values = [[weight.detach().clone() for weight in self._weights(model)] for _ in lengths]

    def _weights(self, model: ScoreModel) -> list[Tensor]:
        parameters = dict(model.named_parameters())
        return [parameters[name] for name in self.names]

    @torch.no_grad()
    def update(self, model: ScoreModel, k: int) -> None:
        """Take in the weights after optimiser step k = 1, 2, ..."""
        for gamma, values in zip(self.gammas, self.values, strict=True):
            lerp(values, self._weights(model), (1 - 1 / k) ** (gamma + 1))

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by `number/name of the weight`, divided as the weights are."""
        return {
            f"{i}/{name}": value for i, values in enumerate(self.values) for name, value in zip(self.names, values, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the averages of a `state_dict`.

        Raises:
            ValueError: an average is missing or of another shape.
        """
        for name, value in self.state_dict().items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError(f"the average {name} is missing, or of another network")
        for i, values in enumerate(self.values):
            for name, value in zip(self.names, values, strict=True):
                value.copy_(divided_as(state[f"{i}/{name}"].to(value.device), value))
