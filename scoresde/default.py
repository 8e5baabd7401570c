"""The solver and the grid that `sample` takes when it is given none: the best measured rule that needs no tuning.

The error relative to the best of some 50 configurations of diffusers, k-diffusion and azula, chosen for each target and budget in hindsight;
geometric means over three targets with exact scores (benchmarks/solvers.py), rms / median over starts:

    network calls          5          6          8         10         15         20
    vab3, power 2     1.4 / 1.2  1.4 / 1.0  1.1 / .78  .83 / .62  .79 / 1.3  .86 / 1.5
    vab3, power 2.5   1.0 / .79  1.2 / .82  1.0 / .58  .75 / .49  .74 / 1.0  .75 / 1.2
    vab3, power 3     .92 / .75  .90 / .48  .79 / .58  .73 / .55  .67 / .88  .73 / 1.1
    iPNDM-3, power 3  1.4 / 1.2  1.5 / .76  1.1 / .50  .97 / .43  .68 / .64  .63 / .89

Two principles stand behind it. Both methods extrapolate with bounded weights (iPNDM by ignoring the spacing, vab by lowering its order), and
so do not blow up where a grid's steps grow, as the consistent methods of order 3 and 4 do on a cosine chain. And both have steps at small
noise that are shorter than uniform ones, for narrow structure.
"""

from __future__ import annotations

from . import grids
from .solvers import IPNDM, Solver, VelocityAdams

FEW_CALLS = 10


def default(calls: int) -> tuple[Solver, grids.Grid]:
    """The solver and the grid for a budget of network calls; they cost one call a step."""
    return (VelocityAdams(order=3) if calls <= FEW_CALLS else IPNDM(order=3)), grids.cubic
