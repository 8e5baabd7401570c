"""Networks that predict a variance beside their prediction: twice the channels (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15).

For the step from s down to t the second half v says where, between the variance of the posterior q(z_t | z_s, x) and that of the forward
transition, the log variance of the step lies:

    log Sigma = f log beta + (1 - f) log beta~,      f = (v + 1)/2.

v is a fraction, not a variance, and so fits every spacing of the steps. `solvers.LearnedAncestral` uses it and `losses.hybrid` trains it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.arrays import Time, expand
from ..sde.prediction import conversion
from .score_model import NetworkTime, ScoreModel


class LearnedVariance(ScoreModel):
    """A `ScoreModel` whose network returns `(B, 2C, *rest)` for a state `(B, C, *rest)`: the prediction, then v ("learned_range" elsewhere).

    Everything that asks for a prediction (all solvers, losses, likelihoods) sees the first half. The arguments are those of `ScoreModel`.
    """

    def output(self, z: Tensor, t: Time | NetworkTime, **cond: object) -> Tensor:
        """The first half of what the network returns, its prediction.

        Raises:
            ValueError: as `output_and_fraction`.
        """
        return self.output_and_fraction(z, t, **cond)[0]

    def output_and_fraction(self, z: Tensor, t: Time | NetworkTime, **cond: object) -> tuple[Tensor, Tensor]:
        """The prediction and f = (v + 1)/2, 0 for the posterior's variance and 1 for beta, both of the shape of `z`, from one network call.

        Raises:
            ValueError: `z` has no channels, or the network does not return twice as many.
        """
        if z.ndim < 2:
            raise ValueError(f"a learned variance needs states of shape (B, C, *rest), got {tuple(z.shape)}")
        out: Tensor = self(z, t, **cond)
        b, c, *rest = z.shape
        if out.shape != (b, 2 * c, *rest):
            raise ValueError(
                f"the network returned shape {tuple(out.shape)} for a state of shape {tuple(z.shape)}; with a learned variance it must be "
                f"{(b, 2 * c, *rest)}"
            )
        prediction, v = out.chunk(2, dim=1)
        return prediction, (v + 1) / 2

    def data_and_fraction(self, z: Tensor, t: Time, **cond: object) -> tuple[Tensor, Tensor]:
        """E[x | z_t] and f, from one network call.

        Raises:
            ValueError: as `output_and_fraction`, or the prediction does not determine the data at t.
        """
        out, fraction = self.output_and_fraction(z, t, **cond)
        c_z, c_out = conversion(self.sde, t, self.prediction, "data")
        dtype = torch.promote_types(z.dtype, out.dtype)
        return (expand(c_z, z, dtype) * z.to(dtype) + expand(c_out, z, dtype) * out.to(dtype)).to(z.dtype), fraction
