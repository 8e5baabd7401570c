"""Structure may change, these numbers may not."""

from functools import cache

import numpy as np
import pytest

from . import pin


@cache
def stored() -> dict[str, np.ndarray]:
    with np.load(pin.FILE) as file:
        return dict(file)


@pytest.mark.parametrize("part", [pin.coefficients, pin.samples, pin.densities], ids=lambda part: part.__name__)
def test_numbers_are_the_pinned_ones(part):
    """To 1e-12 relative to the largest number of an array: the processor's own rounding is far below."""
    for name, value in part().items():
        expected = stored()[name]
        assert value.shape == expected.shape, name
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max(), err_msg=name)
