"""The solver "auto": a pilot chooses from the portfolio of `tuning.select`, once for each model, event and number of calls.

    sample(model, (n, *event), "auto", nfe=10)

The choice is remembered as long as the model lives and until its weights change.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..models.base import Model
from ..numerics.batching import index_cond
from ..numerics.inputs import as_count
from ..tuning.selection import Selected, select

NOISES = 32

_chosen: WeakKeyDictionary[Model, dict[Hashable, Selected]] = WeakKeyDictionary()


def auto(model: Model, event: tuple[int, ...], nfe: int | None, cond: dict[str, object], samples: int) -> Selected:
    """The best of the portfolio for `model` at `nfe` calls, by a pilot from 32 starts whose cost is printed to stderr.

    Args:
        event: the shape of one sample.
        cond: as in `sample`; the pilot takes the rows of its tensors in turn.
        samples: rows of these tensors.

    Raises:
        ValueError: `nfe` is missing or below 2.
    """
    if nfe is None:
        raise ValueError("the solver 'auto' needs nfe=, the number of network calls")
    nfe = as_count("nfe", nfe, 2)
    choices = _chosen.setdefault(model, {})
    key = (event, nfe, tuple(sorted(cond)), _weights(model))
    if key not in choices:
        started = time.perf_counter()
        choices[key] = picked = select(
            model, nfe, event, NOISES, cond=index_cond(cond, torch.arange(NOISES) % samples, samples) if samples else cond
        )
        print(
            f"auto: {picked.name} at {nfe} network calls, error {picked.error:.3g} (median {picked.median:.3g}); the pilot of "
            f"{NOISES} samples took {time.perf_counter() - started:.1f} s, once for this model and budget",
            file=sys.stderr,
        )
    return choices[key]


def _weights(model: Model) -> Hashable:
    """The parameters of a network and how often each has been changed."""
    if not isinstance(model, nn.Module):
        return None
    return tuple((id(p), 0 if p.is_inference() else p._version) for p in model.parameters())
