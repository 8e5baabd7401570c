"""Which model a solver was fitted to."""

from __future__ import annotations

import hashlib

from torch import nn

from ..models.base import Model


def fingerprint(model: Model) -> str:
    """A hash of the shapes of a model's parameters and of four values of each; of the class's name where there are no parameters.

    What a wrapper does to the model inside it counts too, by its `extra_repr`, which a `ScoreModel` does not have.
    """
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    digest = hashlib.sha256(type(model).__name__.encode() if not parameters else b"")
    digest.update(model.extra_repr().encode() if isinstance(model, nn.Module) else b"")
    for p in parameters:
        # Three digits survive another device and half precision.
        values = ",".join(f"{v:.2e}" for v in p.detach().flatten()[:4].float().tolist())
        digest.update(f"{tuple(p.shape)}:{values};".encode())
    return digest.hexdigest()[:16]
