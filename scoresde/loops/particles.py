"""Groups of K weighted particles in a batch: rows g K .. g K + K - 1 are the particles of group g.

All rows of a group have the same conditions. A group is resampled where its effective number of particles falls below `ess` K. The noise of its
first row decides how, so that a group depends on its own seeds alone. Resampling hides a target without a density, whose weights would all go
to one particle: `ess` 0 shows it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.arrays import values_are_known
from ..numerics.random import NoiseSource
from ..numerics.resampling import effective_number, normalised, systematic, uniforms


class Particles:
    """The log-weights of a batch.

    Args:
        count: rows in the batch.
        k: particles in a group.
        ess: the share of K below which a group is resampled; 0 for never.

    Attributes:
        log_weights: `(G, K)` float64, of the particles since the last resampling.
        log_evidence: log of the mean weight, the product over resamplings, `(G,)` float64.

    Raises:
        ValueError: the batch does not consist of groups of K, or gradients are recorded.
    """

    def __init__(self, count: int, k: int, ess: float, device: torch.device) -> None:
        if torch.is_grad_enabled():
            raise ValueError("resampling has no gradient: particles need torch.no_grad(), and sample without grad=True")
        if count % k:
            raise ValueError(f"a batch of {count} does not consist of groups of {k} particles")
        self.k, self.ess = k, ess
        self.log_weights = torch.zeros(count // k, k, dtype=torch.float64, device=device)
        self._resampled = torch.zeros(count // k, dtype=torch.float64, device=device)

    @property
    def log_evidence(self) -> Tensor:
        mean: Tensor = self.log_weights.logsumexp(1) - torch.log(torch.tensor(float(self.k)))
        return self._resampled + mean

    def add(self, increments: Tensor) -> None:
        """Multiply the weights by exp(increments), `(B,)` nats.

        A particle whose weight is not finite has none.
        """
        increments = increments.to(self.log_weights).reshape(self.log_weights.shape)
        self.log_weights = torch.where(increments.isfinite(), self.log_weights + increments, -torch.inf)

    def resampled(self, noise: NoiseSource, *states: Tensor, always: bool = False) -> tuple[Tensor, ...]:
        """The states after resampling the groups that need it; with `always`, all whose weights differ.

        Raises:
            ValueError: one particle carries all the weight of its group: the target has no density, or K is far too small.
        """
        effective = effective_number(self.log_weights)
        least = (1 - 1e-9) * self.k if always else self.ess * self.k
        due = ~(effective >= least)
        if values_are_known(effective) and bool((effective < 1 + 1e-6).any()) and self.k > 8:
            raise ValueError(
                f"one particle of {self.k} carries all the weight of its group: the target has no density, its steps are too long, or it "
                "needs many more particles"
            )
        if not self.ess or self.k == 1:
            return states
        # One draw at every visit, whether it is used or not: the noise does not depend on the weights.
        normals = noise.draw((self.log_weights.numel(), 1), torch.float64, self.log_weights.device)
        if values_are_known(effective) and not bool(due.any()):
            return states
        u = uniforms(normals.reshape(self.log_weights.shape)[:, 0])
        rows = torch.arange(self.k, device=u.device)
        index = torch.where(due[:, None], systematic(self.log_weights, u), rows)
        flat = (index + self.k * torch.arange(len(index), device=u.device)[:, None]).reshape(-1)
        self._resampled = torch.where(due, self.log_evidence, self._resampled)
        self.log_weights = torch.where(due[:, None], 0.0, self.log_weights)
        return tuple(state[flat.to(state.device)] for state in states)

    def normalised(self) -> Tensor:
        """Normalised log-weights of the rows, `(B,)`."""
        return normalised(self.log_weights).reshape(-1)
