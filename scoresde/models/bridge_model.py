"""A network on a bridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..numerics.arrays import Time
from ..sde.bridge import Bridge
from ..sde.prediction import Prediction
from .score_model import ScoreModel, TimeConvention
from .wrapper import Wrapper


class PreparedEnd(NamedTuple):
    """A time of a call, and what the model inside prepared for it."""

    t: Time
    inner: Any


class BridgeModel(Wrapper):
    """A network `network(z, time, **cond)` on a bridge, where z = a x + b y + c eps.

    Its states are u = z - b y: every loss and every solver takes it as a model on a path of numbers. Every call needs the known end as
    `given=y`, of the shape of the data:

        losses.denoising(model, x, weighting="data", given=y)        sample(model, y.shape, given=y, steps=20)

    Args:
        network: as for `ScoreModel`. It sees z itself, and y as the keyword `given` if `conditional` is set.
        bridge: the path.
        prediction: "data", or "noise" (eps), "velocity" and others, which say nothing at t = 1, where sampling starts.
        time: as for `ScoreModel`.
        conditional: pass y to the network too (DDBM does; I2SB does not need to).

    Raises:
        TypeError: `bridge` is no `Bridge`, or the network is not callable.
        ValueError: an unknown prediction or time convention.
    """

    sde: Bridge

    def __init__(
        self,
        network: nn.Module,
        bridge: Bridge,
        prediction: Prediction = "data",
        time: TimeConvention | None = None,
        *,
        conditional: bool = False,
    ) -> None:
        if not isinstance(bridge, Bridge):
            raise TypeError(f"bridge must be a Bridge, got {bridge!r}")
        super().__init__(ScoreModel(network, bridge, prediction, time))
        self.prediction, self.conditional = prediction, conditional

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[PreparedEnd]:
        return [PreparedEnd(*each) for each in zip(times, self.model.prepare(times, z), strict=True)]

    def output(self, z: Tensor, t: Time | PreparedEnd, given: Tensor | None = None, **cond: object) -> Tensor:
        """The network's output at the state u = `z` of the bridge that ends at `given`.

        Raises:
            TypeError: `given` is missing.
            ValueError: it has another shape than `z`.
        """
        if not isinstance(given, Tensor):
            raise TypeError("a bridge needs its known end: given=y, a tensor of the shape of the data")
        t, inner = t if isinstance(t, PreparedEnd) else (t, t)
        state = self.sde.with_end(z, given, t)
        return self.model.output(state, inner, **cond, **({"given": given} if self.conditional else {}))

    def end_of(self, cond: dict[str, object]) -> Tensor:
        """The known end among the conditions.

        Raises:
            TypeError: it is missing.
        """
        given = cond.get("given")
        if not isinstance(given, Tensor):
            raise TypeError("a bridge needs its known end: given=y, a tensor of the shape of the data")
        return given.to(torch.promote_types(given.dtype, torch.float32))
