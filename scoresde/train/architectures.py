"""The networks that a run can have, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from .. import networks

if TYPE_CHECKING:
    from .experiment import Experiment


def _unet(e: Experiment, channels: int, outputs: int, classes: int | None) -> nn.Module:
    return networks.UNet(
        channels, e.width, e.multipliers, e.blocks, e.attention, e.heads, e.patch, classes, e.dropout, outputs, e.recompute
    )


def _adm(e: Experiment, channels: int, outputs: int, classes: int | None) -> nn.Module:
    return networks.ADM(
        channels, e.width, e.multipliers, e.blocks, e.attention, outputs=outputs, classes=classes, dropout=e.dropout,
        head_channels=_head_channels(e), recompute=e.recompute,
    )  # fmt: skip


def _edm2(e: Experiment, channels: int, outputs: int, classes: int | None) -> nn.Module:
    return networks.EDM2(
        channels, e.width, e.multipliers, e.blocks, e.attention, outputs=outputs, classes=classes, dropout=e.dropout,
        head_channels=_head_channels(e), recompute=e.recompute,
    )  # fmt: skip


def _head_channels(e: Experiment) -> int:
    """The published 64 channels a head, or fewer where a level of a small network cannot be split into such heads."""
    return math.gcd(64, *(e.width * multiplier for multiplier in e.multipliers))


def _dit(e: Experiment, channels: int, outputs: int, classes: int | None) -> nn.Module:
    return networks.DiT(
        channels, e.width, e.blocks, e.heads, e.patch, outputs=outputs, classes=classes, recompute=e.recompute
    )  # fmt: skip


# Of images with these channels in and out.
ARCHITECTURES: Mapping[str, Callable[[Experiment, int, int, int | None], nn.Module]] = {
    "unet": _unet,
    "adm": _adm,
    "edm2": _edm2,
    "dit": _dit,
}


def build(experiment: Experiment, m: int, classes: int | None) -> nn.Module:
    """The network for events of the experiment's shape, in states of m channels; an MLP where they are no images."""
    event = experiment.event
    if len(event) == 3:
        channels = m * event[0]
        network = ARCHITECTURES[experiment.network](experiment, channels, channels, classes)
    else:
        network = networks.MLP(event if m == 1 else (m, *event), experiment.width, classes=classes)
    return network if m == 1 else networks.SideBySide(network)
