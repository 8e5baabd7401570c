"""The trace of a Jacobian from products with it: exact, Hutchinson's and Hutch++.

With M = dF/dv of a field F and unit vectors e_i or random probes p of covariance I,

    exact        tr M = sum_i e_i^T M e_i                                          d products, no error
    hutchinson   tr M = E[ p^T M p ]                                               one product a probe; Hutchinson 1989, Commun. Stat. 18, 1059
    hutch++      tr M = tr Q^T M Q + E[ p^T P M P p ],   P = I - Q Q^T             three a probe; Meyer et al. 2021, arXiv 2010.09649, alg. 1

where the columns of Q, `(d, K)`, span M^T times K other probes, so that only the rest P M P adds noise to Hutch++. For symmetric M Hutchinson's
variance is 2 (|M|_F^2 - sum_i M_ii^2) with random signs and 2 |M|_F^2 with Gaussian probes. In Hutch++ the probes are Gaussian, and P p is
scaled to the length sqrt(d - K). The estimate stays unbiased, because length and direction are independent, and multiples of the identity add
no noise (Epperly, Tropp and Webber 2024, arXiv 2301.07825, section 2.3). Hutch++ wins where a few directions make up M. Where M is nearly
diagonal, as for images with constant pixels, random signs win. Each probe gives one column of estimates: their mean is the estimate, and their
spread shows its error.

All products are vector-Jacobian products w^T M by reverse-mode differentiation. One evaluation of F serves all of them, and every network that
can be trained supports them (forward mode has no rule for fused attention). A product costs one backward pass, as in forward mode, without the
gradients of the weights. vmap batches `chunk` products, so that memory does not grow with d.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .batching import Index


def differentiable_attention() -> AbstractContextManager[None]:
    """Run scaled_dot_product_attention by its formula: the fused kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def random_signs(like: Tensor, generator: Generator) -> Tensor:
    """-1 or 1 with equal probability (Rademacher), with the shape, dtype and device of `like`."""
    bits = torch.randint(0, 2, like.shape, generator=generator, device=generator.device)
    return (2 * bits - 1).to(like.device, like.dtype)


def vector_jacobian_products(out: Tensor, v: Tensor, w: Tensor, chunk: int, create_graph: bool) -> Tensor:
    """w^T (d out/dv) for each of the m vectors `w`, `(m, *out.shape)`; the result is `(m, *v.shape)`.

    Args:
        out: a function of `v`, with its graph, which is kept.
        v: the tensor to differentiate by.
        w: the vectors.
        chunk: products that vmap batches. With 1 nothing is batched, so that every network works.
        create_graph: keep the products differentiable.
    """
    products = []
    for part in w.split(chunk):
        batched = len(part) > 1
        (product,) = torch.autograd.grad(
            out, v, part if batched else part[0], is_grads_batched=batched, retain_graph=True, create_graph=create_graph
        )
        products.append(product if batched else product[None])
    return torch.cat(products)


class Linearisation:
    """F and its Jacobian M at v.

    Args:
        field: F, from `(b, d)` to `(b, d)`; row i of F depends on row i of v only.
        v: `(b, d)`.
        chunk: products that vmap batches. With 1 nothing is batched, so that every network works.
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

    def vjp(self, w: Tensor) -> Tensor:
        """w^T M for vectors w, `(m, b, d)`."""
        return vector_jacobian_products(self._out, self._v, w, self.chunk, self.grad)

    def require_second_derivatives(self, trace: Tensor) -> None:
        """Differentiate a trace once: a network without second derivatives is refused before the solve instead of after it.

        Raises:
            RuntimeError: the network cannot be differentiated twice.
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
    """An estimator of the trace. Its probes stay fixed along an ODE.

    Attributes:
        columns: estimates per evaluation.
    """

    columns: int = 1

    @abstractmethod
    def trace(self, at: Linearisation, samples: Index) -> Tensor:
        """Estimates of tr M, `(b, columns)`. `samples` says which of the batch `at` holds, in order; None for all."""

    def stderr(self, estimates: Tensor) -> Tensor:
        """The standard error, `(B,)`, of the mean of estimates `(B, columns)`; NaN for one column, which does not show it."""
        if self.columns == 1:
            return torch.full_like(estimates[:, 0], torch.nan)
        return estimates.std(1) / math.sqrt(self.columns)


@dataclass(frozen=True)
class Exact(Divergence):
    """sum_i e_i^T M e_i: one product per coordinate."""

    def trace(self, at: Linearisation, samples: Index) -> Tensor:
        b, d = at.value.shape
        total = at.value.new_zeros(b)
        for start in range(0, d, at.chunk):
            size = min(at.chunk, d - start)
            i = torch.arange(size, device=at.value.device)
            unit = at.value.new_zeros(size, b, d)
            unit[i, :, start + i] = 1
            total = total + at.vjp(unit)[i, :, start + i].sum(0)
        return total[:, None]

    def stderr(self, estimates: Tensor) -> Tensor:
        return torch.zeros_like(estimates[:, 0])


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """The mean of p^T M p over probes `(B, K, d)`."""

    probes: Tensor

    @property
    def columns(self) -> int:  # type: ignore[override]
        """One per probe."""
        return self.probes.shape[1]

    def trace(self, at: Linearisation, samples: Index) -> Tensor:
        p = _rows(self.probes, samples)
        return (at.vjp(p) * p).sum(-1).T


@dataclass(frozen=True)
class HutchPlusPlus(Divergence):
    """The exact trace on the range of `sketch`, `(B, K, d)`, and an estimate with Gaussian `probes`, `(B, K, d)`, on the rest."""

    sketch: Tensor
    probes: Tensor

    @property
    def columns(self) -> int:  # type: ignore[override]
        """One per probe."""
        return self.probes.shape[1]

    def trace(self, at: Linearisation, samples: Index) -> Tensor:
        # The identity holds for every orthonormal Q, so Q needs no gradient. The gradient of the QR factors is singular where M is.
        image = at.vjp(_rows(self.sketch, samples)).detach()
        q = torch.linalg.qr(image.permute(1, 2, 0)).Q.permute(2, 0, 1)
        p = _rows(self.probes, samples)
        rest = p - torch.einsum("jbd,kbj->kbd", q, torch.einsum("jbd,kbd->kbj", q, p))
        rest = math.sqrt(q.shape[-1] - len(q)) * torch.nn.functional.normalize(rest, dim=-1)
        return ((at.vjp(q) * q).sum((0, 2)) + (at.vjp(rest) * rest).sum(-1)).T


def _rows(probes: Tensor, samples: Index) -> Tensor:
    """The probes `(K, b, d)` of the samples, from `(B, K, d)`."""
    if isinstance(samples, Tensor):
        samples = samples.to(probes.device)
    return (probes if samples is None else probes[samples]).transpose(0, 1)
