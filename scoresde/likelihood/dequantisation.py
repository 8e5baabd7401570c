"""Data in bins: from the density of real numbers to the probability of a bin, and to bits per dimension.

A value rounded to the middle of a bin of width w, such as a pixel of 8 bits, has a probability P and no density. With noise u of density q(u)
within the bins of all d dimensions, a density p of the real numbers x + u gives (Theis et al. 2016, arXiv 1511.01844, section 3.1)

    log P(x) = log int p(x + u) du >= E_q[ log p(x + u) - log q(u) ],

and with K draws log P(x) >= E[ log 1/K sum_k p(x + u_k)/q(u_k) ], which becomes exact as K grows. Uniform noise has log q = -d log w. The
density from an ODE, however, is that of data smoothed by normal noise of standard deviation r (see `density`). The matching noise is normal
too, truncated at the bin (Zheng et al. 2023, arXiv 2305.03935, section 4.3): with tau = w/(2r),

    u = r eps,   eps ~ N(0, 1) on [-tau, tau],      log q = -sum( eps^2/2 + log( r sqrt(2 pi) erf(tau/sqrt 2) ) ).

In bits per dimension, log P is -log P/(d log 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Generator, Tensor

from ..numerics.arrays import event_sum
from ..numerics.brief import Brief
from ..numerics.inputs import as_count, as_event, as_number, as_numbers, as_state
from ..numerics.random import rand

Nats = TypeVar("Nats", float, Tensor)


@dataclass(frozen=True, repr=False)
class Dequantised(Brief):
    """Data with noise within their bins.

    Attributes:
        x: `(B, *event)` x + u.
        log_density: `(B,)` log q(u) in nats. For `out = log_likelihood(model, dequantised.x)` the bound on log P is
            `out.nats - dequantised.log_density`, in nats, and `bits_per_dim` of that with `width=1`.
    """

    x: Tensor
    log_density: Tensor


def dequantise(
    x: Tensor,
    *,
    bins: int | None = None,
    width: float | None = None,
    kind: Literal["uniform", "truncated_normal"] = "uniform",
    std: float | None = None,
    generator: Generator | None = None,
) -> Dequantised:
    """Add noise to values that lie in the middle of their bins.

    Args:
        x: `(B, *event)` in the model's units; not changed.
        bins: levels, evenly spaced from -1 to 1 with both ends, as `scoresde.data` makes them: 256 for bytes, 2/255 apart.
        width: width of a bin, for all other scales. Exactly one of `bins` and `width` is needed.
        kind: "uniform", or "truncated_normal" of standard deviation `std` before the truncation.
        std: r = sigma(t_end)/alpha(t_end) of the density that is evaluated on the result.
        generator: one stream of noise; by default every call differs.

    Raises:
        ValueError: not one of `bins` and `width`; values off the levels; `std` missing, not positive, or given for uniform noise.
        TypeError: `x` holds integers.
    """
    w = bin_width(bins, width)
    x = as_state("x", x)
    if bins is not None:
        level = (x.double() + 1) / w
        if bool(((level - level.round()).abs() > 0.01).any()) or bool((level < -0.01).any()) or bool((level > bins - 0.99).any()):
            raise ValueError(
                f"x does not lie on {bins} levels from -1 to 1 (values {float(x.min()):g} to {float(x.max()):g}): give width= for "
                "another scale; noise must not be added twice"
            )
    unit = rand(x.numel(), generator).to(x.device).reshape(x.shape)
    d = math.prod(x.shape[1:])
    if kind == "uniform":
        if std is not None:
            raise ValueError(f"std={std} means nothing to uniform noise")
        noise = w * (unit - 0.5)
        log_density = torch.full((len(x),), -d * math.log(w), dtype=torch.float64, device=x.device)
    elif kind == "truncated_normal":
        if std is None:
            raise ValueError("truncated_normal needs std=, sigma/alpha at t_end")
        std = as_number("std", std, above=0.0)
        tau = 0.5 * w / std
        inside = math.erf(tau / math.sqrt(2))
        eps = (math.sqrt(2) * torch.erfinv((2 * unit - 1) * inside)).clamp(-tau, tau)
        noise = std * eps
        log_density = -0.5 * event_sum(eps.square()) - d * math.log(std * math.sqrt(2 * math.pi) * inside)
    else:
        raise ValueError(f"kind must be 'uniform' or 'truncated_normal', got {kind!r}")
    return Dequantised((x.double() + noise).to(x.dtype), log_density.to(x.dtype))


def bits_per_dim(nats: Nats, event_shape: Sequence[int], *, bins: int | None = None, width: float | None = None) -> Nats:
    """Bits per dimension, -( nats/d + log w )/log 2, of data in bins of width w from their log density `nats` with uniform noise in the bins.

    A density depends on the units. The width of a bin must therefore be in the units of the data, and is never guessed.

    Args:
        nats: a number, or any tensor of log densities of whole events.
        event_shape: shape of one event, without the batch.
        bins: levels, evenly spaced from -1 to 1 with both ends, as `scoresde.data` makes them: 256 for bytes, 2/255 apart.
        width: width of a bin, for all other scales: 2/256 for 2 (byte + 1/2)/256 - 1; 1 where `nats` is a log probability already. Exactly one
            of `bins` and `width` is needed.

    Raises:
        TypeError: `nats` are no numbers.
        ValueError: not one of `bins` and `width`.
    """
    d = math.prod(as_event("event_shape", event_shape))
    if hasattr(nats, "prior_mismatch"):
        raise TypeError("nats must be numbers, got a Likelihood: give its .nats")
    if not isinstance(nats, float | int | Tensor):
        nats = as_numbers("nats", nats)
    return -(nats / d + math.log(bin_width(bins, width))) / math.log(2)


def bin_width(bins: int | None, width: float | None) -> float:
    """The width of a bin, from `bins` or from `width`.

    Raises:
        ValueError: neither or both are set, fewer than two bins, or a width that is not positive.
    """
    if (bins is None) == (width is None):
        raise ValueError(
            "the width of a bin is not guessed: give bins= (levels from -1 to 1 with both ends, 256 for bytes as scoresde.data scales them) "
            f"or width= (in the units of the data), one of the two; got bins={bins} and width={width}"
        )
    if bins is not None:
        return 2 / (as_count("bins", bins, 2) - 1)
    return as_number("width", width, above=0.0)
