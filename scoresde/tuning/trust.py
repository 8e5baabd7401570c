"""Whether a reference solution can be believed: its samples must look like data, and its own error must be below what is measured with it."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..models.thresholding import quantile_of_rows
from ..models.training_mode import stacklevel_of_user
from ..numerics.arrays import flatten_events
from .reference import ReferenceSolution

# Measured from 32 starts (benchmarks/external, benchmarks/targets.py). The largest |x| is 1.0 to 2.0 times its 99th percentile on six healthy
# networks and three mixtures, and 8.8 times on a CIFAR-10 network whose samples leave [-1, 1]. The means of samples spread by 0.08 to 0.25 of
# the standard deviation inside a sample on healthy ones of 32 and more coordinates, and by 2.2 on a network whose samples drift.
HEAVY_TAIL, DRIFT = 4.0, 1.5
# Means of fewer coordinates spread as the coordinates do.
MIN_COORDINATES = 16
# An error that was measured against a reference whose own error is larger than this share of it is not known.
LARGEST_SHARE = 0.5


def flaw(x: Tensor) -> str | None:
    """What is wrong with samples `(M, *event)`, judged without data; None where nothing is.

    Either the largest |x| is far above the 99th percentile, or the means of samples differ by far more than the coordinates of one sample do.
    """
    rows = flatten_events(x.double())
    largest, bulk = float(rows.abs().amax()), float(quantile_of_rows(rows.abs().reshape(1, -1), 0.99))
    if largest > HEAVY_TAIL * bulk:
        return f"the largest |x| is {largest:.3g}, the 99th percentile {bulk:.3g}"
    if len(rows) < 2 or rows.shape[1] < MIN_COORDINATES:
        return None
    between, within = float(rows.mean(1).std()), math.sqrt(float(rows.var(1).mean()))
    if between > DRIFT * within:
        return f"the means of samples have a standard deviation of {between:.3g}, the coordinates of one sample of {within:.3g}"
    return None


def warn_of_flaw(reference: ReferenceSolution) -> None:
    """Warn where the endpoints have a `flaw`."""
    found = flaw(reference.x)
    if found is not None:
        warnings.warn(
            f"samples of this model may leave the range of its data: in the reference solution {found}. If the data are not like that, "
            "scoresde.models.thresholded(model, low, high) holds the samples to a range, and diagnostics.sample_range compares them with data",
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )


def warn_of_discrepancy(reference: ReferenceSolution, error: float) -> None:
    """Warn where the error of the reference is no small share of the `error` that was measured with it."""
    rounding = 32 * torch.finfo(reference.states.dtype).eps * float(reference.x.double().square().mean().sqrt())
    if reference.discrepancy > max(LARGEST_SHARE * error, rounding):
        warnings.warn(
            f"the error is {against(error, reference.discrepancy)}: the true error may be another. Give "
            f"reference_steps={2 * reference.steps} or more; if the discrepancy does not fall, the network is rough in time",
            UserWarning,
            stacklevel=stacklevel_of_user(),
        )


def against(error: float, discrepancy: float) -> str:
    """An error with that of its reference."""
    return f"{error:.3g} (the reference is off by {discrepancy:.2g})"
