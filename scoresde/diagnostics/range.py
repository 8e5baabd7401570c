"""The range, the mean and the spread of samples against those of data."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..numerics.inputs import as_state

# A sample may pass the range of the data by this share of its width, as the data are a sample too.
MARGIN = 0.1
# The share of coordinates outside of it that is still called inside, and the largest drift of the mean in standard deviations of the data.
MOST_OUTSIDE, LARGEST_DRIFT = 1e-3, 0.25


class SampleRange(NamedTuple):
    """Samples compared with data.

    Attributes:
        low, high: the smallest and the largest coordinate of the samples.
        data_low, data_high: those of the data.
        outside: the share of the samples' coordinates that pass the range of the data by more than 10 % of its width.
        drift: the mean of the samples minus that of the data, in standard deviations of the data.
        spread: the standard deviation of the samples over that of the data. Both are over all coordinates.
    """

    low: float
    high: float
    data_low: float
    data_high: float
    outside: float
    drift: float
    spread: float

    @property
    def verdict(self) -> str:
        """One sentence: whether the samples stay in the range of the data and around their mean, and the remedy if not."""
        found = f"samples in [{self.low:.3g}, {self.high:.3g}], data in [{self.data_low:.3g}, {self.data_high:.3g}]"
        if self.outside > MOST_OUTSIDE:
            return (
                f"{found}: {100 * self.outside:.2g} % of the coordinates leave the range of the data; models.thresholded(model, "
                f"{self.data_low:.3g}, {self.data_high:.3g}) holds them inside"
            )
        if abs(self.drift) > LARGEST_DRIFT:
            return f"{found}, but the mean is off by {self.drift:+.2g} standard deviations of the data"
        return f"{found}, mean off by {self.drift:+.2g} standard deviations: healthy"


def sample_range(samples: Tensor, data: Tensor) -> SampleRange:
    """Compare samples `(M, *event)` with data `(N, *event)`, over all coordinates together.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: events of different shapes, or no samples or data.
    """
    samples, data = as_state("samples", samples).double(), as_state("data", data).double()
    if samples.shape[1:] != data.shape[1:] or not samples.numel() or not data.numel():
        raise ValueError(
            f"samples and data must be (M, *event) and (N, *event), got {tuple(samples.shape)} and {tuple(data.shape)}"
        )
    low, high, std = float(data.amin()), float(data.amax()), float(data.std(correction=0))
    margin = MARGIN * (high - low)
    outside = (samples < low - margin) | (samples > high + margin)
    scale = max(std, 1e-300)
    return SampleRange(
        float(samples.amin()), float(samples.amax()), low, high, float(outside.double().mean()),
        float(samples.mean() - data.mean()) / scale, float(samples.std(correction=0)) / scale,
    )  # fmt: skip
