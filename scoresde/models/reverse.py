"""The reverse-time SDE of a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor

from ..numerics.arrays import Time, expand
from ..numerics.brief import line, shown
from ..numerics.inputs import as_number, as_state
from .base import Model, require_model


class ReverseSDE:
    """dz = [f z - (1 + eta^2)/2 g^2 score(z, t)] dt + eta g dw, run from t = 1 to t = 0.

    Every eta >= 0 has the marginals of the forward path (Song et al. 2021, arXiv 2011.13456, appendix D.1;
    eta = 1 is Anderson's reverse SDE, eta = 0 the probability-flow ODE).

    It is an SDE for `torchsde.sdeint` too, which wants a time u that rises and states y of shape `(B, d)`: there u = 1 - t, from u = 0 at the
    noise to 1 - `sde.t_min`, and y is z, flattened where the event has another shape (`flattened`):

        dy = f(u, y) du + g(u, y) dw,    f(u, y) = -drift(y, 1 - u),    g(u, y) = diffusion(1 - u).

    `noise_type` is "diagonal" ("additive", which it is, would demand a `(B, d, d)` tensor). As g does not depend on y, Ito and
    Stratonovich mean the same; `sde_type` says "ito" and may be set to "stratonovich" for the methods of torchsde that ask for it.
    """

    noise_type = "diagonal"
    sde_type = "ito"

    def __repr__(self) -> str:
        return line("ReverseSDE", shown(self.model), f"eta={self.eta:g}")

    def __init__(self, model: Model, eta: float = 1.0) -> None:
        require_model(model, "score")
        self.sde, self.model, self.eta = model.sde, model, as_number("eta", eta, 0.0)
        self._event_shape: tuple[int, ...] | None = None
        self._cond: dict[str, object] = {}

    def drift(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """The drift at `(z, t)`, of the shape of `z`; `cond` reaches the model untouched."""
        z = as_state("z", z)
        weight = 0.5 * (1 + self.eta**2) * self.sde.diffusion(t) ** 2
        return self.sde.drift(z, t) - expand(weight, z) * self.model.score(z, t, **cond)

    def diffusion(self, t: Time) -> Tensor:
        """eta g(t)."""
        return self.eta * self.sde.diffusion(t)

    def flattened(self, event_shape: Sequence[int], **cond: object) -> ReverseSDE:
        """The same for `torchsde`, with states `(B, d)` that are flattened events of shape `event_shape`; `cond` goes to the model."""
        flat = copy.copy(self)
        flat._event_shape, flat._cond = tuple(event_shape), cond
        return flat

    def f(self, u: Time, y: Tensor) -> Tensor:
        """-drift at t = 1 - u, of the shape `(B, d)` of `y`."""
        z = y if self._event_shape is None else y.reshape(len(y), *self._event_shape)
        return -self.drift(z, 1 - float(u), **self._cond).reshape(y.shape)

    def g(self, u: Time, y: Tensor) -> Tensor:
        """The diffusion at t = 1 - u, for each entry of `y`."""
        return expand(self.diffusion(1 - float(u)), y).expand_as(y)
