r"""The posterior mean of the data given the state and an observation, for a Gaussian p(x | z) with the mean D and the covariance V:

    E[x | z, y] = D + C^T A^T K^{-1} (y - A D),        K = Sigma_y + A V A^T,        V ~ Cov[x | z],        C = V.

With `jacobian` the factor C is the exact (sigma^2/alpha) dD/dz, whatever K uses, so that the correction is the gradient of a log-likelihood
N(y; A D, K) with K held fixed. The result is a data prediction: a posterior is a model, and every solver, grid and density takes it.

Published methods differ in V and C alone; `inverse.methods` lists them. With Tweedie's V, a linear A and a solved K the prediction is exact for
a Gaussian prior. On other priors none is: p(x | z) is not Gaussian there. Several likelihoods are one stacked observation, so that they share
the last vector-Jacobian product.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..models.base import Model
from ..models.data_wrapper import DataWrapper, PreparedData, differentiable, require_differentiable
from ..numerics.arrays import Time, expand, flatten_events
from ..numerics.cost import spend
from ..numerics.inputs import as_count, as_flag, as_number, as_one_of, as_sequence
from ..numerics.linear import conjugate_gradient, gmres
from ..numerics.random import cpu_generator
from ..sde.base import as_time
from .covariances import Covariance, Flat, Place, Zero, as_covariance
from .likelihoods import Gaussian, Likelihood, LocalOperator, Map

# Products with K where no number is given; a network's backward pass each with Tweedie's covariance.
MOST_ITERATIONS = 50


class Posterior(DataWrapper):
    """E[x | z, y] as a model; the formulas are in the docstring of the module.

        lik = Gaussian(operators.mask(kept), std=0.05)
        ss.sample(Posterior(model, lik), (16, 1, 28, 28), steps=50, y=y)

    y comes with the call, one row a sample or one row for all, under the likelihood's `name`. The other conditions go to the model.

    Where alpha/sigma is below 1e-3 everything is taken at the time at which it is that: V is 0/0 without a signal, and the covariance of the
    data just before.

    Args:
        model: any model.
        likelihood: what y says; several for several observations, each under its own name.
        covariance: V: "tweedie", "isotropic", "lowrank", "flat", "rowsums", "ratio", "zero", one of `inverse.covariances` with its numbers, or
            a function (v, t) -> V v.
        jacobian: whether C is the network's derivative, one vector-Jacobian product, or V.
        solve: "cg", which takes V for symmetric, or "gmres".
        iterations: products with K; None for as many as `tolerance` needs, at most 50.
        tolerance: the residual of K u = y - A D relative to y - A D, for each sample.

    Raises:
        TypeError: an argument of another type; in a call, y is missing.
        ValueError: an unknown name, `jacobian=False` with a covariance that leaves V open, or a model that cannot be differentiated. In a
            call: y has another shape than A(x), or the given adjoint is not the transpose of A.
        RuntimeError: in a call inside torch.inference_mode, where the network is to be differentiated.
    """

    least_signal: ClassVar[float] = 1e-3

    def __init__(
        self,
        model: Model,
        likelihood: Likelihood | Sequence[Likelihood],
        covariance: str | Covariance | Callable[[Tensor, Tensor], Tensor] = "tweedie",
        *,
        jacobian: bool = True,
        solve: str = "cg",
        iterations: int | None = None,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__(model)
        likelihoods = [likelihood] if isinstance(likelihood, Likelihood) else as_sequence("likelihood", likelihood)
        for each in likelihoods:
            if not isinstance(each, Likelihood):
                raise TypeError(f"likelihood must be a Likelihood such as Gaussian(A, std), got {each!r}")
        names = [each.name for each in likelihoods]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"every likelihood needs a name of its own, got {', '.join(names) or 'none'}: Gaussian(A, std, name='y2')"
            )
        self.likelihoods: tuple[Likelihood, ...] = tuple(likelihoods)
        self.covariance = as_covariance(covariance)
        self.jacobian = as_flag("jacobian", jacobian)
        self.solver = as_one_of("solve", solve, ("cg", "gmres"))
        self.iterations = None if iterations is None else as_count("iterations", iterations)
        self.tolerance = as_number("tolerance", tolerance, 0.0, below=1.0)
        if self.derivative:
            require_differentiable(self, model)
        self._checked = False

    @property
    def derivative(self) -> bool:
        """Whether a call differentiates the network."""
        return self.jacobian or self.covariance.derivative

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[PreparedData]:
        """As the model prepares them.

        Raises:
            ValueError: with V = 0, a step of the solver is longer than the correction allows; names its gain.
        """
        if isinstance(self.covariance, Zero):
            self._require_stable(times, z)
        return super().prepare(times, z)

    def output(self, z: Tensor, t: Time | PreparedData, **cond: Any) -> Tensor:
        """E[x | z, y], of the shape and the dtype of `z`."""
        at = self.at(t)
        z = self.inner_state(z, at)
        observed = self.observations(z, cond)
        with self.place(z, at, cond) as place:
            stack = self._stack(place.data, observed)
            if isinstance(self.covariance, Flat) and not self.jacobian and (known := self._pinv(place.data, observed)) is not None:
                return known
            u = self._solve(place, stack)
            back = stack.adjoint(u)
            product = place.tweedie if self.jacobian else self.covariance.map(place)
            if product is None:
                raise ValueError(f"jacobian=False takes V for C, which {self.covariance} leaves open")
            return place.data + product(back)

    @contextmanager
    def place(self, z: Tensor, at: PreparedData, cond: dict[str, Any]) -> Iterator[Place]:
        """D and its derivative at the state `z` at t'; the graph lives as long as the context."""
        outer = torch.is_grad_enabled()
        t = as_time(at.t)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        r2, factor = (sigma / alpha) ** 2, sigma**2 / alpha
        if not self.derivative:
            data = self.inner_data(z, at, **cond)
            yield Place(t, r2, data, _refuse)
            return
        v = differentiable(z)
        with torch.enable_grad():
            data = self.inner_data(v, at, **cond)

        def tweedie(w: Tensor) -> Tensor:
            spend(len(z), vjps=1)
            (product,) = torch.autograd.grad(data, v, w, retain_graph=True, create_graph=outer)
            return expand(factor, product) * product

        yield Place(t, r2, data if outer else data.detach(), tweedie)

    def observations(self, z: Tensor, cond: dict[str, Any]) -> list[Tensor]:
        """The observations, taken out of the conditions, one row a sample.

        Raises:
            TypeError: one is missing.
        """
        found = []
        for likelihood in self.likelihoods:
            y = cond.pop(likelihood.name, None)
            if not isinstance(y, Tensor) or y.ndim == 0:
                raise TypeError(
                    f"the posterior needs its observation, {likelihood.name}=, a tensor with one row a sample, got "
                    f"{'a tensor without axes' if isinstance(y, Tensor) else type(y).__name__}"
                )
            y = y.to(z)
            found.append(y if len(y) == len(z) else y.expand(len(z), *y.shape[1:]) if len(y) == 1 else y)
        if not self._checked and not torch.compiler.is_compiling():
            with torch.no_grad():
                for likelihood in self.likelihoods:
                    likelihood.check(z)
            self._checked = True
        return found

    def _stack(self, data: Tensor, observed: list[Tensor]) -> _Stack:
        """All observations as one, flattened."""
        locals_ = [likelihood.at(data) for likelihood in self.likelihoods]
        for likelihood, local, y in zip(self.likelihoods, locals_, observed, strict=True):
            if y.shape != local.value.shape:
                name, rows = likelihood.name, f"{tuple(local.value.shape)}, or {(1, *local.value.shape[1:])} for all samples"
                raise ValueError(
                    f"{name} has shape {tuple(y.shape)}, but A returns {tuple(local.value.shape)}: give {name} of shape {rows}"
                )
        noises = [likelihood.noise(local.value) for likelihood, local in zip(self.likelihoods, locals_, strict=True)]
        residual = torch.cat([flatten_events(y - local.value) for y, local in zip(observed, locals_, strict=True)], 1)
        return _Stack(locals_, noises, residual)

    def _solve(self, place: Place, stack: _Stack) -> Tensor:
        """K^{-1} (y - A D), `(B, m)`."""
        b = stack.residual
        diagonal = self.covariance.diagonal(place, stack.forward, stack.adjoint, b)
        variances = stack.variances
        if diagonal is not None and variances is not None:
            total = diagonal + variances
            return torch.where(total > 0, b / torch.where(total > 0, total, 1.0), 0.0)
        apply = self.operator(place, stack, diagonal)
        most = min(b.shape[1], MOST_ITERATIONS) if self.iterations is None else self.iterations
        if self.solver == "gmres":
            return gmres(apply, b, most, self.tolerance).x
        solution = conjugate_gradient(apply, b, most, self.tolerance, stack.noise)
        if self.derivative and not torch.compiler.is_compiling() and bool(solution.indefinite.any()):
            warnings.warn(
                "the network's covariance is negative along some direction, which counts as 0 there: the network is not trained at this "
                "noise level, or far from its data",
                UserWarning,
                stacklevel=2,
            )
        return solution.x

    def operator(self, place: Place, stack: _Stack, diagonal: Tensor | None = None) -> Map:
        """u -> K u on flattened observations."""
        if diagonal is not None:
            return lambda u: stack.noise(u) + diagonal * u
        product = self.covariance.map(place)
        assert product is not None
        return lambda u: stack.noise(u) + stack.forward(product(stack.adjoint(u)))

    def log_twist(self, z: Tensor, at: PreparedData, **cond: Any) -> tuple[Tensor, Tensor, Tensor]:
        """D, E[x | z, y] and log N(y; A D, K) in nats `(B,)`, at the state `z` at t'. K is made in full: a product for each observed number."""
        observed = self.observations(z, cond)
        with self.place(z, at, cond) as place:
            stack = self._stack(place.data, observed)
            m = stack.residual.shape[1]
            apply = self.operator(place, stack, self.covariance.diagonal(place, stack.forward, stack.adjoint, stack.residual))
            unit = torch.eye(m, dtype=z.dtype, device=z.device)
            k = torch.stack([apply(row.expand(len(z), m)) for row in unit], 2)
            factor, _ = torch.linalg.cholesky_ex(0.5 * (k + k.mT))
            u = torch.cholesky_solve(stack.residual[:, :, None], factor)[:, :, 0]
            log_determinant = factor.diagonal(dim1=1, dim2=2).log().sum(1)
            log_twist = -0.5 * ((stack.residual * u).sum(1) + m * math.log(2 * math.pi)) - log_determinant
            product = place.tweedie if self.jacobian else self.covariance.map(place)
            assert product is not None
            return place.data, place.data + product(stack.adjoint(u)), log_twist

    def log_likelihood(self, x: Tensor, **cond: Any) -> Tensor:
        """log p(y | x) of each sample in nats, `(B,)`."""
        observed = self.observations(x, dict(cond))
        logs = [likelihood.log_prob(x, y) for likelihood, y in zip(self.likelihoods, observed, strict=True)]
        return torch.stack(logs).sum(0)

    def _pinv(self, data: Tensor, observed: list[Tensor]) -> Tensor | None:
        """D + A^+ (y - A D) where the noise is 0 and a pseudo-inverse is known; else None."""
        (likelihood, *others), y = self.likelihoods, observed[0]
        if others or not isinstance(likelihood, Gaussian) or likelihood.pinv is None or likelihood.std != 0.0:
            return None
        return data + likelihood.pinv(y - likelihood.A(data))

    def _require_stable(self, times: Sequence[float], z: Tensor) -> None:
        t = torch.tensor([*times, 0.0], dtype=torch.float64, device="cpu")
        lam = self.sde.half_log_snr(t)
        r2 = (-2 * lam[:-1]).exp()
        share = -torch.expm1(-(lam[1:] - lam[:-1]))
        for likelihood in self.likelihoods:
            if not isinstance(likelihood, Gaussian) or callable(likelihood.std) or not likelihood.linear:
                continue
            least = float(torch.as_tensor(likelihood.std).min())
            ratio = _squared_norm(likelihood, z) / least**2 if least else math.inf
            # V J of data of unit variance: their product with |A|^2/sigma_y^2 is the slope of the correction in z.
            gain = ratio * r2 / (1 + r2) ** 2
            unstable = torch.nonzero(share * gain > 2)
            if len(unstable):
                k = int(unstable[0])
                raise ValueError(
                    f"with covariance='zero' the correction has the gain r^2 |A|^2/sigma_y^2 = {float(ratio * r2[k]):.3g} at t={times[k]:.3g}, "
                    "and a step there multiplies errors: take covariance='tweedie', or smaller steps"
                )

    def extra_repr(self) -> str:
        return f"{', '.join(map(repr, self.likelihoods))}, covariance={self.covariance}, jacobian={self.jacobian}, solve={self.solver!r}"


@dataclass(frozen=True, eq=False)
class _Stack:
    """Several observations as one vector `(B, m)`."""

    locals: list[LocalOperator]
    noises: list[Tensor | Map]
    residual: Tensor

    def forward(self, v: Tensor) -> Tensor:
        return torch.cat([flatten_events(local.forward(v)) for local in self.locals], 1)

    def adjoint(self, u: Tensor) -> Tensor:
        parts = u.split([local.value[0].numel() for local in self.locals], 1)
        total = [local.adjoint(part.reshape(local.value.shape)) for part, local in zip(parts, self.locals, strict=True)]
        return torch.stack(total).sum(0) if len(total) > 1 else total[0]

    def noise(self, u: Tensor) -> Tensor:
        """Sigma_y u."""
        parts = u.split([local.value[0].numel() for local in self.locals], 1)
        shaped = [part.reshape(local.value.shape) for part, local in zip(parts, self.locals, strict=True)]
        return torch.cat([flatten_events(n(p) if callable(n) else n * p) for n, p in zip(self.noises, shaped, strict=True)], 1)

    @property
    def variances(self) -> Tensor | None:
        """The diagonal of Sigma_y, `(B, m)`; None where a part of it is a function."""
        if any(callable(noise) for noise in self.noises):
            return None
        return self.noise(torch.ones_like(self.residual))


def _refuse(v: Tensor) -> Tensor:
    raise AssertionError("a posterior without derivatives asked for one")


def _squared_norm(likelihood: Likelihood, z: Tensor, iterations: int = 20) -> float:
    """|A|^2, the largest eigenvalue of A^T A, by power iteration from a fixed vector."""
    v = torch.randn(z[:1].shape, generator=cpu_generator(0), dtype=torch.float64).to(z)
    with torch.no_grad():
        size = 0.0
        for _ in range(iterations):
            v = v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)
            local = likelihood.at(v)
            v = local.adjoint(local.value)
            size = float(v.norm())
    return size
