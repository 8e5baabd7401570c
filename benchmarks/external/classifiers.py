"""Classifiers of noisy digits that others trained, as log-probabilities of a state on any path of ours.

Their paths are z' = a x' + s eps with x' = (x + 1)/2 in [0, 1]. A state of ours, z/alpha = x + r eps, is theirs at the time with s/a = r/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import scoresde as ss

from . import catalogue, networks

# Their variance-exploding path has sigma(t) = 0.01 * 5000^t; the other one has betas from 0.1 to 20.
VP = ss.VPSDE(beta_min=0.1, beta_max=20.0)
LOW, RATIO = 0.01, 5000.0
HIGHEST = float((-VP.half_log_snr(1.0)).exp()) * (1 - 1e-9)


def log_probabilities(kind: str, sde: ss.SDE) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(class | z_t = z), a function of `(z, t)` for states on `sde`, `(B, 10)`; `kind` is "vp" or "ve".

    Raises:
        NotHere: the file is not on this machine.
    """
    network = catalogue.loaded(networks.NoisyClassifier(), f"mnist_liamw4ng_classifier_{kind}.pth").eval()

    def log_p(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        ratio = 0.5 * sigma / alpha
        if kind == "vp":
            # Noisier states than its path has say nothing of the class.
            own = VP.time(-ratio.clamp(max=HIGHEST).log())
            scale = VP.alpha(own)
        else:
            own = ((ratio / LOW).log() / math.log(RATIO)).clamp(1e-3, 1.0)
            scale = torch.ones_like(own)
        shape = (-1,) + (1,) * (z.ndim - 1) if own.ndim else ()
        x = scale.reshape(shape).to(z) * (0.5 * z / alpha.reshape(shape).to(z) + 0.5)
        return network(x, own.to(z).expand(len(z))).log_softmax(1)

    return log_p


def wanted(kind: str, sde: ss.SDE) -> Callable[..., Tensor]:
    """log p(label | z_t = z), for `guidance.tilted(model, wanted(...), takes=["label"])`."""
    log_p = log_probabilities(kind, sde)

    def log_wanted(z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return log_p(z, t).gather(1, label[:, None])[:, 0]

    return log_wanted
