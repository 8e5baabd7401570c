"""A network on a bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..numerics.arrays import Time
from ..sde.bridge import Bridge
from ..sde.prediction import Prediction
from .score_model import NetworkTime, ScoreModel, TimeConvention


class PreparedEnd(NamedTuple):
    """A time of a call, and what a `ScoreModel` prepares for it."""

    t: float
    network: NetworkTime


class BridgeModel(ScoreModel):
    """A network `network(z, time, **cond)` on a bridge, where z = a x + b y + c eps.

    Its states are u = z - b y: losses, solvers and the `Trainer` take it as a model on a path of numbers. Every call needs the known end as
    `given=y`, of the shape of the data:

        losses.denoising(model, x, weighting="data", given=y)        sample(model, y.shape, given=y, steps=20)

    What `sample` returns and shows are states z, not u.

    Args:
        network: as for `ScoreModel`. It sees z itself, and y as the keyword `given` if `conditional` is set.
        sde: the bridge.
        prediction: "data", or "noise" (eps), "velocity" and others, which say nothing at t = 1, where sampling starts.
        time: as for `ScoreModel`.
        conditional: pass y to the network too (DDBM does; I2SB does not need to).

    Raises:
        TypeError: `sde` is no `Bridge`, or the network is not callable.
        ValueError: an unknown prediction or time convention.
    """

    sde: Bridge

    def __init__(
        self,
        network: nn.Module,
        sde: Bridge,
        prediction: Prediction = "data",
        time: TimeConvention | None = None,
        *,
        conditional: bool = False,
    ) -> None:
        if not isinstance(sde, Bridge):
            raise TypeError(f"sde must be a Bridge, got {sde!r}")
        super().__init__(network, sde, prediction, time)
        self.conditional = conditional

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[Any]:
        return [PreparedEnd(*each) for each in zip(times, super().prepare(times, z), strict=True)]

    def output(self, z: Tensor, t: Time | NetworkTime | PreparedEnd, **cond: object) -> Tensor:
        """The network's output at the state u = `z` of the bridge that ends at `given`.

        Raises:
            TypeError: `given` is missing.
            ValueError: it has another shape than `z`.
        """
        given = known_end(cond)
        if isinstance(t, NetworkTime):
            raise TypeError("a bridge needs the time itself: call prepare of the BridgeModel")
        t, inner = t if isinstance(t, PreparedEnd) else (t, t)
        rest = cond if self.conditional else {name: value for name, value in cond.items() if name != "given"}
        return super().output(self.sde.with_end(z, given, t), inner, **rest)


def known_end(cond: Mapping[str, object]) -> Tensor:
    """The known end among the conditions.

    Raises:
        TypeError: it is missing.
    """
    given = cond.get("given")
    if not isinstance(given, Tensor):
        raise TypeError("a bridge needs its known end: given=y, a tensor of the shape of the data")
    return given.to(torch.promote_types(given.dtype, torch.float32))
