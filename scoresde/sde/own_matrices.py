"""A linear SDE from matrices of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..numerics.coefficients import congruent, product
from ..numerics.inputs import as_function, as_number
from ..numerics.quadrature import gauss_legendre
from .bases import Basis, Identity
from .magnus import BackwardByMagnus, Rates, propagators


class CoefficientsLinearSDE(BackwardByMagnus):
    """A path from F(t) and G(t) G(t)^T of one's own. A and Sigma follow by Magnus's method and Gauss-Legendre quadrature.

    Args:
        drift: F, the times `(n,)` in float64 -> `(n, K)`, or `(n, K, m, m)` for m channels.
        noise: G G^T, likewise.
        start: the variances of the channels after the data at t = 0, `(m - 1,)` numbers; without further channels nothing.
        basis: of the blocks.
        t_min: the smallest time at which a grid calls the network.

    Raises:
        TypeError: `drift` or `noise` is no function.
        ValueError: they return other shapes or values that are not finite on [0, 1], or `start` does not fit.
    """

    # Intervals of the stored path, shorter towards t = 0.
    INTERVALS = 512

    def __init__(
        self, drift: Rates, noise: Rates, start: Sequence[float] = (), basis: Basis | None = None, *, t_min: float = 1e-3
    ) -> None:
        self._drift, self._noise = as_function("drift", drift, 1), as_function("noise", noise, 1)
        self.basis, self.t_min = basis or Identity(), as_number("t_min", t_min, above=0.0, below=1.0)
        nodes = torch.linspace(0, 1, self.INTERVALS + 1, dtype=torch.float64, device="cpu") ** 2
        f, q = self.drift_rates(nodes), self.noise_rates(nodes)
        matrix = f.ndim == 4 and f.shape[-1] == f.shape[-2]
        if f.shape != q.shape or len(f) != len(nodes) or not (f.ndim == 2 or matrix) or not bool((f + q).isfinite().all()):
            raise ValueError(
                f"drift and noise must return finite tensors of one shape, (n, K) or (n, K, m, m), got {tuple(f.shape)} and {tuple(q.shape)}"
            )
        self.channels = f.shape[-1] if matrix else 1
        first = torch.zeros(f.shape[1:], dtype=torch.float64, device="cpu")
        if len(start) != self.channels - 1 or any(v <= 0 for v in start):
            raise ValueError(f"start must hold {self.channels - 1} positive variances, got {start}")
        for i, variance in enumerate(start):
            first[..., i + 1, i + 1] = variance
        unit = torch.eye(self.channels, dtype=torch.float64, device="cpu").expand(f.shape[1:]) if matrix else torch.ones_like(first)
        phis, covariances = [unit], [first]
        for phi, growth in zip(self._phi(nodes[:-1], nodes[1:]), self._growth(nodes[:-1], nodes[1:]), strict=True):
            phis.append(product(phi[None], phis[-1][None])[0])
            covariances.append(congruent(phi[None], covariances[-1][None])[0] + growth)
        self._nodes, self._phis, self._covariances = nodes, torch.stack(phis), torch.stack(covariances)

    def _phi(self, s: Tensor, t: Tensor) -> Tensor:
        """Phi from s to t within an interval."""
        return propagators(self.drift_rates, s, t, 2)

    def _growth(self, s: Tensor, t: Tensor) -> Tensor:
        """int_s^t Phi(t, u) G G^T Phi(t, u)^T du within an interval."""
        nodes, weights = (part.to(s.device) for part in gauss_legendre(4))
        total = torch.zeros((), dtype=torch.float64, device=s.device)
        for node, weight in zip(nodes, weights, strict=True):
            at = s + (t - s) * node
            part = congruent(self._phi(at, t), self.noise_rates(at))
            total = total + ((t - s) * weight).reshape(-1, *(1,) * (part.ndim - 1)) * part
        return total

    def _before(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last stored time before each of `t`, with Phi and Sigma there."""
        k = (torch.searchsorted(self._nodes.to(t.device), t.contiguous(), right=True) - 1).clamp(0, self.INTERVALS - 1)
        return self._nodes.to(t.device)[k], self._phis.to(t.device)[k], self._covariances.to(t.device)[k]

    def signal(self, t: Tensor) -> Tensor:
        at, phi, _ = self._before(t)
        whole = product(self._phi(at, t), phi)
        return whole if self.channels == 1 else whole[..., :1]

    def covariance(self, t: Tensor) -> Tensor:
        at, _, covariance = self._before(t)
        return congruent(self._phi(at, t), covariance) + self._growth(at, t)

    def drift_rates(self, t: Tensor) -> Tensor:
        return _numbers(self._drift(t), t)

    def noise_rates(self, t: Tensor) -> Tensor:
        return _numbers(self._noise(t), t)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        (at_s, phi_s, _), (at_t, phi_t, _) = self._before(s), self._before(t)
        phi_s, phi_t = product(self._phi(at_s, s), phi_s), product(self._phi(at_t, t), phi_t)
        return phi_t / phi_s if self.channels == 1 else torch.linalg.solve(phi_s.mT, phi_t.mT).mT

    def __repr__(self) -> str:
        return f"CoefficientsLinearSDE(K={self._phis.shape[1]}, m={self.channels}, basis={self.basis!r})"


def _numbers(c: Tensor, t: Tensor) -> Tensor:
    """What a function of the user returned, in float64 beside its times; 1 x 1 matrices without their axes."""
    c = c.to(device=t.device, dtype=torch.float64)
    return c[..., 0, 0] if c.ndim == 4 and c.shape[-2:] == (1, 1) else c
