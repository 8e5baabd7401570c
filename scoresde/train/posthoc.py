"""An average of any length, after training (Karras et al. 2024, arXiv 2312.02696, section 3.2).

The power-function average at step T has the profile p(t) = (gamma + 1) t^gamma / T^(gamma + 1) on [0, T]. Of the snapshots p_i up to that step
the combination sum_i x_i p_i nearest to the wanted p in the mean square is

    A x = b,        A_ij = <p_i, p_j>,        b_i = <p_i, p>,

    <p_a, p_b> = (gamma_a + 1) (gamma_b + 1) m^(gamma_a + gamma_b + 1) / ((gamma_a + gamma_b + 1) T_a^(gamma_a + 1) T_b^(gamma_b + 1))

with m = min(T_a, T_b). The weights of the average are then sum_i x_i w_i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.score_model import ScoreModel
from ..numerics.files import read_about, read_tensors, subset, write_tensors
from .average import gamma_of
from .checkpoint import CHECKPOINT, KEY, load_averaged, state_for
from .identity import unwrapped

# The folder of the snapshots, below that of the run.
AVERAGES = "averages"


class Profile(NamedTuple):
    """The profile of an average: its step T and its exponent gamma."""

    step: int
    gamma: float


def inner_product(a: Profile, b: Profile) -> float:
    """<p_a, p_b>, an integral over the steps."""
    m, total = min(a.step, b.step), a.gamma + b.gamma + 1
    # Logarithms: T^(gamma + 1) overflows for the short averages of long runs.
    powers = total * math.log(m) - (a.gamma + 1) * math.log(a.step) - (b.gamma + 1) * math.log(b.step)
    return (a.gamma + 1) * (b.gamma + 1) / total * math.exp(powers)


def combination(snapshots: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """The coefficients x, float64 of shape `(n,)`, and |p - sum_i x_i p_i| / |p|."""
    a = torch.tensor([[inner_product(p, q) for q in snapshots] for p in snapshots], dtype=torch.float64, device="cpu")
    b = torch.tensor([inner_product(p, wanted) for p in snapshots], dtype=torch.float64, device="cpu")
    # Scaled to unit profiles: neighbouring snapshots are nearly equal, and early ones are far larger than late ones.
    scale = a.diagonal().rsqrt()
    x = scale * torch.linalg.lstsq(scale[:, None] * a * scale, scale * b, driver="gelsd").solution
    norm = inner_product(wanted, wanted)
    residual = norm - 2 * x @ b + x @ a @ x
    return x, math.sqrt(max(float(residual), 0.0) / norm)


def write_snapshot(folder: Path, iteration: int, tensors: Mapping[str, Tensor], gammas: Sequence[float]) -> None:
    """Write the power-function averages of one iteration."""
    write_tensors(
        folder / AVERAGES / f"{iteration:09d}.safetensors", tensors, {"iteration": iteration, "gammas": list(gammas)}, KEY
    )


def load_average(folder: str | Path, model: ScoreModel, length: float, iteration: int | None = None) -> tuple[ScoreModel, float]:
    """Load the average of a length into `model`, in evaluation mode, from the snapshots of a run.

    Args:
        folder: of a run whose recipe has `snapshot_every`.
        model: of the network of the run.
        length: sigma_rel, the standard deviation of the average's profile in units of the training time so far.
        iteration: at which the average ends; by default that of the last snapshot.

    Returns:
        The model, and the relative error of the profile. Where it is above some percent, the snapshots are too few for this length.

    Raises:
        FileNotFoundError: the folder has no checkpoint or no snapshots.
        ValueError: a length outside (0, 1/sqrt(12)), an iteration before the first snapshot, or another network.
    """
    folder = Path(folder)
    files = sorted((folder / AVERAGES).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no snapshots of averages: train with snapshot_every")
    about = {file: read_about(file, KEY) or {} for file in files}
    last = max(int(each["iteration"]) for each in about.values()) if iteration is None else iteration
    profiles = {
        (file, i): Profile(int(each["iteration"]), float(gamma))
        for file, each in about.items()
        for i, gamma in enumerate(each["gammas"])
        if int(each["iteration"]) <= last
    }
    if not profiles:
        raise ValueError(f"the first snapshot of {folder} is later than iteration {last}")
    x, error = combination(list(profiles.values()), Profile(last, gamma_of(length)))
    model = load_averaged(folder / CHECKPOINT, model)
    coefficients = dict(zip(profiles, x.tolist(), strict=True))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    # Coefficients have both signs: float64.
    sums = {name: torch.zeros(weight.shape, dtype=torch.float64, device="cpu") for name, weight in trained.items()}
    for file in dict.fromkeys(file for file, _ in profiles):
        tensors = read_tensors(file, KEY)[0]
        for i in range(len(about[file]["gammas"])):
            values = _weights(file, subset(str(i), tensors), model)
            for name, total in sums.items():
                total += coefficients[file, i] * values[name].double()
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(sums[name])
    return model.eval(), error


def _weights(file: Path, tensors: Mapping[str, Tensor], model: ScoreModel) -> dict[str, Tensor]:
    """The tensors of a model with the averages of a snapshot in place of its trained weights, whatever wraps the network here or there.

    Raises:
        ValueError: the snapshot is of another network.
    """
    averaged = {unwrapped(name) for name in tensors}
    others = {name: value for name, value in model.state_dict().items() if unwrapped(name) not in averaged}
    return state_for(file, others | dict(tensors), model)
