"""Fine solves of few steps: what the page says of them does not depend on their number."""

import pytest

from scoresde.cli.report import paired


@pytest.fixture(scope="package", autouse=True)
def _coarse():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired, "FINE_STEPS", 40)
        yield
