"""Networks of flow matching, whose prediction is the velocity dz/dt of a path."""

from __future__ import annotations

from torch import nn

from ...models.score_model import ScoreModel
from ...models.times import remaining
from ...numerics.inputs import as_one_of
from ...sde.base import SDE
from ...sde.families import RectifiedFlow
from ...sde.prediction import Direction, Prediction, alpha_rate, sigma_rate
from .calls import Call, Called, state_first

DIRECTIONS = ("noise_to_data", "data_to_noise")


def velocity(network: nn.Module, *, direction: str, sde: SDE | None = None, call: Call = state_first) -> ScoreModel:
    """A network that predicts the velocity of a path z = alpha x + sigma eps.

        "data_to_noise"     network(z, t)       =   dalpha/dt x + dsigma/dt eps      eps - x on the straight path
        "noise_to_data"     network(z, 1 - t)   = -(dalpha/dt x + dsigma/dt eps)     x - eps on the straight path

    torchcfm and flow_matching run from noise to data, SD3 and Flux from data to noise. Only Gaussian paths from independent noise have a score:
    torchcfm's `sigma` must be 0, and Schroedinger bridges have none. Minibatch couplings (OT-CFM) train another velocity field, whose samples
    are right and whose score is not.

    Args:
        network: returns a tensor of the shape of `z`, or something that holds one (`models.score_model.as_output`).
        direction: where the network's own time runs.
        sde: the path, by default the straight one. A trigonometric path is `ScalesSDE` with the cosine and the sine of pi t/2.
        call: the order of the arguments: `state_first`, `time_first` (torchcfm) or `by_keyword` (flow_matching).

    Raises:
        TypeError: `direction` is no text, or `sde` is no path.
        ValueError: another direction.
    """
    as_one_of("direction", direction, DIRECTIONS)
    sde = RectifiedFlow() if sde is None else sde
    prediction: Prediction = "velocity" if isinstance(sde, RectifiedFlow) else Direction(alpha_rate, sigma_rate)
    if direction == "noise_to_data":
        return ScoreModel(Called(network, call, -1), sde, prediction, time=remaining)
    return ScoreModel(network if call is state_first else Called(network, call), sde, prediction, time="t")
