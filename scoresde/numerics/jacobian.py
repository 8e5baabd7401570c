"""The trace of a Jacobian from products with it: exact, Hutchinson's and Hutch++.

With M = dF/dv of a field F and unit vectors e_i or random probes p of covariance I,

    exact        tr M = sum_i e_i^T M e_i                                          d products, no error
    hutchinson   tr M = E[ p^T M p ]                                               one product a probe; Hutchinson 1989, Commun. Stat. 18, 1059
    hutch++      tr M = tr Q^T M Q + E[ p^T P M P p ],   P = I - Q Q^T             three a probe; Meyer et al. 2021, arXiv 2010.09649, alg. 1

where Q, `(d, K)`, is a basis of the range of M^T on K other probes, so that the noise of Hutch++ is only that of the rest. For symmetric M
Hutchinson's variance is 2 (|M|_F^2 - sum_i M_ii^2) with signs and 2 |M|_F^2 with Gaussian probes. In Hutch++ the probes are Gaussian and P p
is scaled to the length sqrt(d - K), which is unbiased because length and direction are independent, and takes away the noise of every multiple
of the identity (Epperly, Tropp and Webber 2024, arXiv 2301.07825, section 2.3). It wins where a few directions make up M; where M is nearly
diagonal, as for images with constant pixels, signs do. Estimates come as one column a probe: the mean is the estimate, the spread its error.

All products are taken from the left, w^T M, by reverse-mode differentiation: one evaluation of F serves all of them, every network that can be
trained has it (forward mode has no rule for fused attention), and it costs as much as forward mode: one backward pass a product, in which the
gradients of the weights are not computed. `chunk` products are batched by vmap, so that memory does not grow with d.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Linearisation:
    """F and its Jacobian M at v.

    Args:
        field: F, from `(b, d)` to `(b, d)`; row i of F depends on row i of v only.
        v: `(b, d)`.
        chunk: products at once. With 1 nothing is batched, which every network can do.
        grad: keep `value` and the products differentiable.

    Attributes:
        value: F(v), `(b, d)`.
    """

    def __init__(self, field: Callable[[Tensor], Tensor], v: Tensor, chunk: int, grad: bool) -> None:
        self.chunk, self.grad = chunk, grad
        with torch.enable_grad():
            self._v = v if grad and v.requires_grad else v.detach().requires_grad_()
            self._out = field(self._v)
        self.value = self._out if grad else self._out.detach()

    def pull(self, w: Tensor) -> Tensor:
        """w^T M for vectors w, `(m, b, d)`."""
        parts = []
        for part in w.split(self.chunk):
            batched = len(part) > 1
            (product,) = torch.autograd.grad(
                self._out,
                self._v,
                part if batched else part[0],
                is_grads_batched=batched,
                retain_graph=True,
                create_graph=self.grad,
            )
            parts.append(product if batched else product[None])
        return torch.cat(parts)

    def require_second_derivatives(self, trace: Tensor) -> None:
        """Differentiate a trace once, so that a network that cannot do it is found out before the solve and not after it.

        Raises:
            RuntimeError: it cannot.
        """
        try:
            if trace.requires_grad:
                torch.autograd.grad(trace.sum(), self._v, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise RuntimeError(
                f"the gradient of a density needs the network differentiated twice, and it cannot be: {error}. Use plain operations in "
                "place of a fused kernel (of attention: torch.nn.attention.sdpa_kernel(SDPBackend.MATH)), or grad=False"
            ) from error


class Divergence(ABC):
    """How a trace is got, with what must stay the same along an ODE.

    Attributes:
        columns: estimates that one evaluation gives.
    """

    columns: int = 1

    @abstractmethod
    def trace(self, at: Linearisation, active: Tensor | None) -> Tensor:
        """`(b, columns)` estimates of tr M, for the samples `active` of the batch (None: all)."""

    def stderr(self, estimates: Tensor) -> Tensor:
        """The standard error, `(B,)`, of the mean of estimates `(B, columns)`; NaN where one alone does not show it."""
        if self.columns == 1:
            return torch.full_like(estimates[:, 0], torch.nan)
        return estimates.std(1) / math.sqrt(self.columns)


@dataclass(frozen=True)
class Exact(Divergence):
    """One product a coordinate."""

    def trace(self, at: Linearisation, active: Tensor | None) -> Tensor:
        b, d = at.value.shape
        total = at.value.new_zeros(b)
        for start in range(0, d, at.chunk):
            size = min(at.chunk, d - start)
            i = torch.arange(size, device=at.value.device)
            unit = at.value.new_zeros(size, b, d)
            unit[i, :, start + i] = 1
            total = total + at.pull(unit)[i, :, start + i].sum(0)
        return total[:, None]

    def stderr(self, estimates: Tensor) -> Tensor:
        return torch.zeros_like(estimates[:, 0])


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """The mean of p^T M p over probes `(B, K, d)`."""

    probes: Tensor

    @property
    def columns(self) -> int:  # type: ignore[override]
        """One a probe."""
        return self.probes.shape[1]

    def trace(self, at: Linearisation, active: Tensor | None) -> Tensor:
        p = _rows(self.probes, active)
        return (at.pull(p) * p).sum(-1).T


@dataclass(frozen=True)
class HutchPlusPlus(Divergence):
    """The exact trace on the range of `sketch`, `(B, K, d)`, and an estimate with Gaussian `probes`, `(B, K, d)`, on the rest."""

    sketch: Tensor
    probes: Tensor

    @property
    def columns(self) -> int:  # type: ignore[override]
        """One a probe."""
        return self.probes.shape[1]

    def trace(self, at: Linearisation, active: Tensor | None) -> Tensor:
        # The identity holds for every orthonormal Q, so no gradient has to pass through its making, which is singular where M is.
        image = at.pull(_rows(self.sketch, active)).detach()
        q = torch.linalg.qr(image.permute(1, 2, 0)).Q.permute(2, 0, 1)
        p = _rows(self.probes, active)
        rest = p - torch.einsum("jbd,kbj->kbd", q, torch.einsum("jbd,kbd->kbj", q, p))
        rest = math.sqrt(q.shape[-1] - len(q)) * torch.nn.functional.normalize(rest, dim=-1)
        return ((at.pull(q) * q).sum((0, 2)) + (at.pull(rest) * rest).sum(-1)).T


def _rows(probes: Tensor, active: Tensor | None) -> Tensor:
    """`(K, b, d)` of `(B, K, d)`."""
    return (probes if active is None else probes[active.to(probes.device)]).transpose(0, 1)
