"""What an audit says: one finding for each property."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

# "note": worth knowing, and no fault. "unknown": it could not be measured.
Verdict = Literal["holds", "broken", "note", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One property of a sampler.

    Attributes:
        name: of the property, a key of `audit.PROPERTIES`.
        verdict: whether it holds.
        text: the measurement in words.
        numbers: the measurement.
    """

    name: str
    verdict: Verdict
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def judged(holds: bool) -> Verdict:
    """ "holds" or "broken"."""
    return "holds" if holds else "broken"


def slope(errors: Mapping[int, float], floor: float = 0.0) -> tuple[float, float]:
    """-d log error / d log N by least squares over the last errors above the floor, at most three, and its standard error.

    Infinite, with error 0, where fewer than two are above.
    """
    points = [(math.log(n), math.log(e)) for n, e in sorted(errors.items()) if e > floor and math.isfinite(e)][-3:]
    if len(points) < 2:
        return math.inf, 0.0
    mean_x, mean_y = (sum(v) / len(points) for v in zip(*points, strict=True))
    square = sum((x - mean_x) ** 2 for x, _ in points)
    rate = sum((x - mean_x) * (y - mean_y) for x, y in points) / square
    rest = sum((y - mean_y - rate * (x - mean_x)) ** 2 for x, y in points)
    # Two points say nothing about the scatter; the asymptotic slope is then known to about a tenth.
    return -rate, math.sqrt(rest / square) if len(points) > 2 else 0.1


def guarded(name: str, measure: Callable[[], Finding]) -> Finding:
    """The finding of a measurement; an exception of the sampler is one too."""
    try:
        return measure()
    except Exception as error:
        lines = str(error).splitlines()
        return Finding(name, "broken", f"raises {type(error).__name__}: {lines[0][:120] if lines else ''}".rstrip(": "))
