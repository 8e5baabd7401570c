"""What `check` found, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .range import SampleRange

# Errors by which a network is worse than the linear guess at a level.
WORSE = 1.1
SOUND = "The errors by level are those of a sound network."
RATIO = (
    " Errors of a noise or score prediction are multiplied by sigma/alpha at the start. A longer training helps, and so does a velocity in its "
    "place."
)
REMEDY = (
    " A network with normalisation layers may not see the mean of its input. models.thresholded, solvers with noise, or another network may "
    "help."
)


@dataclass(frozen=True)
class Level:
    """Mean squared errors of the noise prediction at one noise level. A network that predicts no noise has 1.

    Attributes:
        t: the time.
        half_log_snr: log(alpha/sigma).
        network, linear: of the network, and of the best linear guess on the same states.
    """

    t: float
    half_log_snr: float
    network: float
    linear: float


@dataclass(frozen=True, repr=False)
class Check:
    """What `check` found.

    Attributes:
        faults: kinds of faults: "prediction", "sign", "time", "direction", "schedule", "scale", "index", "time ignored", "samples", "call",
            "training".
        remedies: a sentence for each fault.
        levels: errors by noise level, as the network is declared.
        samples: those of DDIM beside the data; None where they are not finite, or the network cannot be called.
        note: a sentence on the path where it does not end in noise.
    """

    faults: tuple[str, ...]
    remedies: tuple[str, ...]
    levels: tuple[Level, ...]
    samples: SampleRange | None
    note: str = ""

    @property
    def well(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.well:
            well = (
                "All is well: no other reading of the network fits the data better, and its samples have the range of the data. Labels "
                "that are off by 0.1 in log(alpha/sigma), or by 1 % of a chain, are not told."
            )
            return " ".join(filter(None, (well, self.note, shortcoming(self.levels))))
        return " ".join(self.remedies)

    def __str__(self) -> str:
        head = f"{'t':>8} {'log SNR/2':>10} {'network':>9} {'linear guess':>13} {'zero':>6}"
        rows = [f"{at.t:8.4f} {at.half_log_snr:10.2f} {at.network:9.4f} {at.linear:13.4f} {1:6d}" for at in self.levels]
        return "\n".join(["mean squared error of the noise prediction", head, *rows, "", self.verdict])

    def __repr__(self) -> str:
        return f"Check(well={self.well}, faults={self.faults})"


def shortcoming(levels: Sequence[Level]) -> str:
    """Where a network is worse than the best linear guess, in words; empty where it is not, or at one level alone."""
    worse = [at for at in levels if at.network > WORSE * at.linear]
    if len(worse) < 2:
        return ""
    times = ", ".join(f"{at.t:.2g}" for at in worse)
    return f"At t = {times} the network is worse than the best linear guess: a longer training, or a larger network, may help."
