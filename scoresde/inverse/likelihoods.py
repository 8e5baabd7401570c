"""What an observation y says of the data x: y = A(x) + n.

    Gaussian    n ~ N(0, Sigma_y)                    grad_x log p(y|x) = A^T Sigma_y^{-1} (y - A x)
    Poisson     y ~ P(g A x)/g                       grad_x log p(y|x) = g A^T (y/(A x) - 1)

A is any function of a batch, `(B, *event) -> (B, *obs)`, which treats each sample alone. Of a linear one the adjoint A^T is made by
reverse-mode differentiation where none is given. One that is not linear stands for its linearisation at the data prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.data_wrapper import differentiable
from ..numerics.arrays import event_sum, flatten_events
from ..numerics.brief import shown
from ..numerics.inputs import as_flag, as_function, as_number
from ..numerics.keywords import explained_keywords
from ..numerics.linear import conjugate_gradient
from ..numerics.random import cpu_generator

Map = Callable[[Tensor], Tensor]


class LocalOperator(NamedTuple):
    """A at a point x: the value A(x), `(B, *obs)`, and products with its derivative and with the transpose."""

    value: Tensor
    forward: Map
    adjoint: Map


class Likelihood(ABC):
    """p(y | x).

    Attributes:
        A: the operator.
        adjoint: A^T of a linear operator, whose result may be flat; None to differentiate.
        linear: whether A is linear.
        name: the keyword of a call that brings y.
    """

    A: Map
    adjoint: Map | None
    linear: bool
    name: str

    def at(self, x: Tensor) -> LocalOperator:
        """The operator at `x`, `(B, *event)`; products are differentiable where gradients are recorded."""
        given = self.adjoint
        if self.linear and given is not None:
            return LocalOperator(self.A(x), self.A, lambda u: given(u).reshape(x.shape))
        outer = torch.is_grad_enabled()
        # A linear operator has the same derivative everywhere. That of another one depends on x, also for a caller who differentiates.
        point = differentiable(torch.zeros_like(x) if self.linear else x)
        with torch.enable_grad():
            value = self.A(point)

        def adjoint(u: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(value, point, u, retain_graph=True, create_graph=outer)
            return product

        if self.linear:
            return LocalOperator(self.A(x), self.A, adjoint)

        def forward(v: Tensor) -> Tensor:
            # J v is the derivative of <J^T u, v> by u. Forward mode has no rule for some kernels.
            with torch.enable_grad():
                u = torch.zeros_like(value).requires_grad_()
                (transposed,) = torch.autograd.grad(value, point, u, create_graph=True)
                (product,) = torch.autograd.grad(transposed, u, v, create_graph=outer)
            return product

        return LocalOperator(self.A(x), forward, adjoint)

    def check(self, x: Tensor) -> None:
        """Call the operator on a batch of one, and compare the given adjoint with it: <A v, u> = <v, A^T u> for random v and u.

        Raises:
            ValueError: the operator fails or returns no batch of one, the two differ, or the adjoint returns another shape.
        """
        v = torch.randn(x[:1].shape, generator=cpu_generator(0), dtype=torch.float64).to(x)
        # A function of one event, such as x -> M x, fails or takes the batch for an axis of the event.
        called = f"A is called with a batch (B, *event), here of shape {tuple(v.shape)}, and returns (B, *obs)"
        try:
            out = self.A(v)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{called}: {shown(self.A)} failed. {error}") from error
        if out.shape[:1] != v.shape[:1]:
            raise ValueError(f"{called}: {shown(self.A)} returned shape {tuple(out.shape)}")
        if self.adjoint is None or not self.linear:
            return
        u = torch.randn(out.shape, generator=cpu_generator(1), dtype=torch.float64).to(out)
        back = self.adjoint(u)
        if back.numel() != v.numel():
            raise ValueError(f"adjoint returned shape {tuple(back.shape)} for data of shape {tuple(v.shape)}")
        left, right = float((out * u).sum()), float((v * back.reshape(v.shape)).sum())
        scale = float(out.norm() * u.norm()) + float(v.norm() * back.norm())
        if abs(left - right) > 1e-3 * scale:
            raise ValueError(f"adjoint is not the transpose of A: <A v, u> = {left:g} but <v, adjoint(u)> = {right:g}")

    @abstractmethod
    def noise(self, value: Tensor) -> Tensor | Map:
        """Sigma_y at A(x) = `value`: variances that broadcast to it, or products u -> Sigma_y u."""

    def whitened(self, residual: Tensor) -> Tensor:
        """Sigma_y^{-1} residual where Sigma_y is a function."""
        raise NotImplementedError(f"{type(self).__name__} has no Sigma_y^{{-1}} of its own")

    @abstractmethod
    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | x) of each sample in nats, `(B,)`."""

    @abstractmethod
    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """grad_x log p(y | x), of the shape of `x`."""


def _require_operator(A: Any) -> None:
    """Raise for what is no function of a batch.

    Raises:
        TypeError: says what makes an operator of a matrix.
    """
    if hasattr(A, "shape") and not callable(A):
        raise TypeError(f"A must be a function, got {shown(A)}: for a matrix use inverse.operators.matrix(A)")
    as_function("A", A, 1)


@explained_keywords(**dict.fromkeys(("sigma", "noise", "noise_std", "scale"), "the standard deviation is std="))
@dataclass(frozen=True, eq=False)
class Gaussian(Likelihood):
    """y = A(x) + n with n ~ N(0, Sigma_y).

        Gaussian(operators.mask(kept), std=0.05)
        Gaussian(lambda x: x[:, :2], 0.3)

    Attributes:
        A: the operator, `(B, *event) -> (B, *obs)`.
        std: the standard deviation of n: a number, or a tensor that broadcasts to one observation; or a function u -> Sigma_y u on
            `(B, *obs)` for noise with correlations.
        adjoint: A^T; by default that of an operator with the attribute `adjoint`, else by differentiation.
        pinv: the pseudo-inverse, for `ddnm`; by default that of an operator with the attribute `pinv`.
        linear: whether A is linear.
        name: the keyword of a call that brings y.

    Raises:
        TypeError: an argument of another type.
        ValueError: a negative std.
    """

    A: Map
    std: float | Tensor | Map
    adjoint: Map | None = None
    pinv: Map | None = None
    linear: bool = True
    name: str = "y"

    def __post_init__(self) -> None:
        _require_operator(self.A)
        if not callable(self.std) and not isinstance(self.std, Tensor):
            object.__setattr__(self, "std", as_number("std", self.std, 0.0))
        elif isinstance(self.std, Tensor) and not bool((self.std >= 0).all()):
            raise ValueError("std must not be negative")
        linear = as_flag("linear", self.linear) and getattr(self.A, "linear", True)
        object.__setattr__(self, "linear", linear)
        for name in ("adjoint", "pinv") if linear else ():
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.A, name, None))

    def noiseless(self) -> Gaussian:
        """The same observation without noise."""
        return replace(self, std=0.0)

    def noise(self, value: Tensor) -> Tensor | Map:
        if callable(self.std):
            return self.std
        return torch.as_tensor(self.std, dtype=torch.float64).to(value.device, value.dtype) ** 2

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """log N(y; A x, Sigma_y) in nats, `(B,)`; up to a constant where `std` is a function."""
        residual = y - self.A(x)
        noise = self.noise(residual)
        if callable(noise):
            return -0.5 * event_sum(residual * self.whitened(residual))
        return -0.5 * event_sum(residual**2 / noise + (2 * torch.pi * noise).log())

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        local = self.at(x)
        return local.adjoint(self.whitened(y - local.value))

    def whitened(self, residual: Tensor) -> Tensor:
        """Sigma_y^{-1} residual, of the shape of `residual`."""
        noise = self.noise(residual)
        if not callable(noise):
            return residual / noise
        flat = flatten_events(residual)
        solved = conjugate_gradient(lambda u: flatten_events(noise(u.reshape(residual.shape))), flat, flat.shape[1], 1e-8)
        return solved.x.reshape(residual.shape)


@dataclass(frozen=True, eq=False)
class Poisson(Likelihood):
    """Counts: y ~ P(g A x)/g, with mean A x and variance A x/g.

    Where a posterior needs Sigma_y it is max(A x, `least`)/g at the current data prediction.

    Attributes:
        A, adjoint, linear, name: as for `Gaussian`.
        gain: g, counts for each unit of A x.
        least: the smallest A x; a rate that is not positive has no density.

    Raises:
        TypeError: an argument of another type.
        ValueError: `gain` or `least` is not positive.
    """

    A: Map
    gain: float = 1.0
    adjoint: Map | None = None
    linear: bool = True
    name: str = "y"
    least: float = 1e-3

    def __post_init__(self) -> None:
        _require_operator(self.A)
        for name in ("gain", "least"):
            object.__setattr__(self, name, as_number(name, getattr(self, name), above=0.0))
        linear = as_flag("linear", self.linear) and getattr(self.A, "linear", True)
        object.__setattr__(self, "linear", linear)
        if linear and self.adjoint is None:
            object.__setattr__(self, "adjoint", getattr(self.A, "adjoint", None))

    def noise(self, value: Tensor) -> Tensor:
        return value.clamp(min=self.least) / self.gain

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """log P(g y; g A x) in nats, `(B,)`."""
        rate, counts = self.gain * self.A(x).clamp(min=self.least), self.gain * y
        return event_sum(counts * rate.log() - rate - torch.lgamma(counts + 1))

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        local = self.at(x)
        return local.adjoint(self.gain * (y / local.value.clamp(min=self.least) - 1))


def from_deepinv(physics: Any, *, name: str = "y") -> Gaussian | Poisson:
    """The likelihood of a `deepinv` physics, read from its methods `A`, `A_adjoint`, `A_dagger` and its `noise_model`; nothing is imported.

    `GaussianNoise(sigma)` has Sigma_y = sigma^2. `PoissonNoise(gain)` is gain P(x/gain), whose g is 1/gain here. Units are those of the
    physics: data in [0, 1] need a model of data in [0, 1].

    Args:
        physics: an object with `A`.
        name: the keyword of a call that brings y.

    Raises:
        TypeError: an object without `A`.
        ValueError: a noise model that is neither Gaussian nor Poisson; names it.
    """
    if not callable(getattr(physics, "A", None)):
        raise TypeError(f"physics must have a method A, as those of deepinv have, got {physics!r}")
    model = getattr(physics, "noise_model", None)
    adjoint, pinv = getattr(physics, "A_adjoint", None), getattr(physics, "A_dagger", None)
    linear = adjoint is not None
    sigma, gain = getattr(model, "sigma", None), getattr(model, "gain", None)
    kind = type(model).__name__
    if gain is not None and sigma is None:
        return Poisson(physics.A, 1 / float(gain), adjoint, linear, name)
    if gain is None and (sigma is not None or model is None or kind == "ZeroNoise"):
        std = 0.0 if sigma is None else float(sigma)
        return Gaussian(physics.A, std, adjoint, pinv if linear else None, linear, name)
    raise ValueError(f"the noise model {kind} is neither Gaussian nor Poisson: write a Likelihood for it")
