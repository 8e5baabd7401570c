"""The solver and the grid that `sample` takes by default: a rule from the path, the budget, the network's prediction and the size of an event.

The rule was chosen on networks that others trained and on mixtures with exact scores (docs/choosing.md has the numbers, by left-out network).
Four properties decide.

*What the network predicts.* At the noisy end, r = sigma/alpha = 100 and more, the data prediction of a velocity or data network is off by
about the network's own error. There the prediction is nearly the mean of the data, a call at t = 1 tells little, and the first call is made at
r = max(10, 5/2 N) (`LateFirstCall`). A noise network that is off by d gives a data prediction that is off by r d. Its own flow differs from the
step of a late call, and it starts at t = 1. So does EDM's F with more than 3 calls.

*The size of an event.* Networks on images, of 256 coordinates and more here, are rough in time: the errors of neighbouring calls are not alike,
and long steps at small noise are safe. So the grid is plain trailing (power 1). On noise networks the order falls to 2, with 3 calls to 1. On
few coordinates networks are smooth, and steps are shorter at small noise (power 2), with UniPC of order 2 for noise networks.

*The process.* On a linear SDE of one channel it is UniPC of order 2, block by block. It was chosen among eight solvers on two networks, of
coloured noise and of blurring, on which it is measured too (docs/processes.md). With several channels it is `GDDIM` of order 2, and of order 3
with more than 7 calls, by exact scores of CLD and HOLD and a network on CLD.

*The budget.* Few calls want longer last steps. With 3 and fewer on few coordinates the velocity is extrapolated, along the arc of the path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from .. import grids
from ..sde.base import SDE, as_time
from ..sde.linear import LinearSDE
from ..sde.own_times import TimesSDE
from ..sde.prediction import Preconditioned, Prediction
from ..solvers.adams import IPNDM
from ..solvers.ancestral import DDIM
from ..solvers.base import Solver
from ..solvers.composed import LateFirstCall
from ..solvers.exponential import UniPC
from ..solvers.gddim import GDDIM
from ..solvers.velocity import VelocityAdams

# Coordinates of an event from which a network is taken for one on images.
LARGE = 256
# On a linear SDE of several channels: the most calls with which order 2 is better than order 3.
SECOND_ORDER_CALLS = 7
# The most calls that are few, and very few.
FEW_CALLS, LEAST_CALLS = 10, 3


def default(
    sde: SDE, calls: int, prediction: Prediction = "data", event: Sequence[int] | None = None, t_start: float = 1.0
) -> tuple[Solver, grids.Grid]:
    """The solver and the grid for a budget of network calls. In `sample` both `steps` and `nfe` are this budget for the default.

    Args:
        calls: network calls per sample.
        prediction: of the network.
        event: the shape of a sample; None, where nobody knows it, is taken for a small one.
        t_start: the time of the first state.
    """
    if isinstance(sde, LinearSDE):
        if sde.channels == 1 and not isinstance(sde, TimesSDE):
            return UniPC(order=2), partial(grids.trailing, power=2.0)
        # Coordinates that rest have no lambda.
        return GDDIM(order=2 if calls <= SECOND_ORDER_CALLS else 3), partial(grids.trailing, power=2.0)
    few = calls <= FEW_CALLS
    # The preconditioning of Karras et al. gives the network log sigma as its time, in which it is smooth.
    large = event is not None and math.prod(event) >= LARGE
    rough = large and not isinstance(prediction, Preconditioned)
    noise = prediction in ("noise", "score")
    if rough and noise and few:
        return (IPNDM(order=2) if calls > LEAST_CALLS else DDIM()), partial(grids.trailing, power=1.0)
    if noise or (rough and not few):
        return UniPC(order=2), partial(grids.trailing, power=2.0)
    preconditioned, least = isinstance(prediction, Preconditioned), calls <= LEAST_CALLS
    if least and not large:
        # Close to the uniform times of the rectified flow, for data of half its scale.
        return VelocityAdams(order=2, path="circle"), partial(grids.flow, shift=0.5, power=1.25)
    power = 1.0 if rough or (preconditioned and least) else 2.0 if few else 2.5
    ratio = max(10.0, 2.5 * calls)
    if calls < 2 or (preconditioned and not least) or not _starts_above(sde, t_start, ratio):
        return IPNDM(order=3), partial(grids.trailing, power=power)
    return LateFirstCall(IPNDM(order=3)), partial(grids.late, rule=grids.trailing, ratio=ratio, power=power)


def _starts_above(sde: SDE, t_start: float, ratio: float) -> bool:
    """Whether sigma/alpha at the start is well above `ratio`. A bridge starts without noise, which a step could shrink."""
    t = as_time(t_start)
    return float(sde.sigma(t)) > 0 and float(sde.half_log_snr(t)) < -math.log(1.5 * ratio)
