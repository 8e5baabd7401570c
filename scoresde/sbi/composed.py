r"""The posterior of n independent observations from networks of one, p(theta | x_1..x_n) ~ p(theta)^{1-n} prod_i p(theta | x_i).

Let V_i = P_i^{-1} be the covariance of theta given (z, x_i), V_0 that given z alone. For Gaussian p(theta | z, x_i)

    Lambda = (1-n) P_0 + sum_i P_i,        D = Lambda^{-1} ( (1-n) P_0 D_0 + sum_i P_i D_i )

(Linhart et al. 2024, arXiv 2404.07593, eq. 8, there for scores; the weights sum to the identity, so that it holds for every prediction).

    gauss    P_i = C_i^{-1} + 1/r^2 with the posterior covariance C_i, known or estimated once; P_0 likewise with the prior's
    jac      V_i = (sigma^2/alpha) dD_i/dz, d backward passes for each observation
    sum      P_i = 1: the sum of scores, (1-n) s_0 + sum_i s_i. It is no diffused law: its samples are far too narrow for large n

The first two are exact for Gaussian priors and likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..models.analytic import MixtureModel
from ..models.base import Model, require_model
from ..models.data_wrapper import DataWrapper, PreparedData, differentiable
from ..numerics.arrays import Time, flatten_events
from ..numerics.cost import spend
from ..numerics.inputs import as_count, as_number, as_numbers, as_one_of, as_sequence
from ..sampling.sample import sample
from ..sde.base import as_time
from ..sde.fingerprint import require_same_process
from .priors import BoxModel

# The smallest eigenvalue of Lambda, in units of 1/r^2.
LEAST_PRECISION = 0.1


class Composed(DataWrapper):
    """The posterior of several observations as a model; see `composed`."""

    least_signal: ClassVar[float] = 1e-3

    def __init__(
        self,
        model: Model,
        prior: Model,
        method: Literal["gauss", "jac", "sum"] = "gauss",
        *,
        precision: object = None,
        prior_precision: object = None,
        names: Sequence[str] = ("x",),
        axes: int = 1,
    ) -> None:
        super().__init__(model)
        require_model(prior, "data", "output", "prediction")
        require_same_process(self.sde, prior.sde, "the prior")
        self.prior = prior
        self.method = as_one_of("method", method, ("gauss", "jac", "sum"))
        self.names, self.axes = tuple(as_sequence("names", names)), as_count("axes", axes, 0)
        self.precision = None if precision is None else as_numbers("precision", precision)
        self.prior_precision = None if prior_precision is None else as_numbers("prior_precision", prior_precision)
        if self.method == "gauss":
            if self.precision is None:
                raise ValueError(
                    "method='gauss' needs precision=, inverse posterior covariances; posterior_precision estimates them"
                )
            if self.prior_precision is None:
                self.prior_precision = _precision(prior)

    def output(self, z: Tensor, t: Time | PreparedData, **cond: Any) -> Tensor:
        """E[theta | z, x_1..x_n], of the shape and the dtype of `z`.

        Raises:
            TypeError: no observation comes with the call.
            ValueError: observations of another number of axes, or in different numbers.
        """
        at = self.at(t)
        z = self.inner_state(z, at)
        observed, n = self._observed(z, cond)
        if n == 1:
            return self.inner_data(z, at, **cond, **observed)
        b = len(z)
        spend(b, network=n - 1 + isinstance(self.prior, nn.Module))
        many = _repeated(at, n)
        shared = {name: _each(value, b, n) for name, value in cond.items()}

        def parts(rows: Tensor) -> Tensor:
            return self.inner_data(rows, many, **shared, **observed)

        def of_prior(v: Tensor) -> Tensor:
            return self.prior.data(v, at.t)

        if self.method == "sum":
            return (1 - n) * of_prior(z) + parts(z.repeat_interleave(n, 0)).reshape(b, n, *z.shape[1:]).sum(1)
        return self._weighted(z, at, n, parts, of_prior)

    def _weighted(
        self, z: Tensor, at: PreparedData, n: int, parts: Callable[[Tensor], Tensor], of_prior: Callable[[Tensor], Tensor]
    ) -> Tensor:
        t = as_time(at.t).to(z.device)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        r2 = ((sigma / alpha) ** 2).reshape(-1, 1, 1)
        r2_each = r2.repeat_interleave(n, 0) if len(r2) > 1 else r2
        d = flatten_events(z).shape[1]
        unit = torch.eye(d, dtype=torch.float64, device=z.device)
        if self.method == "gauss":
            assert self.precision is not None
            assert self.prior_precision is not None
            p = self.precision.to(z.device).expand(n, d, d) + (unit / r2)[:, None]
            p0 = self.prior_precision.to(z.device) + unit / r2
            found, found0 = parts(z.repeat_interleave(n, 0)), of_prior(z)
        else:
            factor = (sigma**2 / alpha).reshape(-1, 1, 1)
            found, jacobians = _jacobian(parts, z.repeat_interleave(n, 0))
            found0, jacobian0 = _jacobian(of_prior, z)
            spend(len(z), vjps=n * d + (d if isinstance(self.prior, nn.Module) else 0))
            p = _inverse(factor.repeat_interleave(n, 0) if len(factor) > 1 else factor, jacobians, r2_each).reshape(-1, n, d, d)
            p0 = _inverse(factor, jacobian0, r2)
        lam = (1 - n) * p0 + p.sum(1)
        values, basis = torch.linalg.eigh(torch.nan_to_num(lam))
        weighted = (1 - n) * torch.einsum("bij,bj->bi", p0, flatten_events(found0).double())
        weighted = weighted + torch.einsum("bnij,bnj->bi", p.expand(len(z), n, d, d), found.reshape(len(z), n, d).double())
        mean = found.reshape(len(z), n, d).double().mean(1)
        # The state alone has the precision 1/r^2, and observations only add to it where all are Gaussian. Far less is an error of the
        # approximation, which a division would blow up: there the mean of the n predictions takes its place.
        usual = values > LEAST_PRECISION / r2[:, 0]
        parts_of = torch.einsum("bji,bj->bi", basis, weighted) / torch.where(usual, values, 1.0)
        solved = torch.einsum("bij,bj->bi", basis, torch.where(usual, parts_of, torch.einsum("bji,bj->bi", basis, mean)))
        broken = ~lam.isfinite().all(2).all(1)
        return torch.where(broken[:, None], torch.nan, solved).reshape(z.shape).to(z.dtype)

    def _observed(self, z: Tensor, cond: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
        """The observations as rows of the batch B n, and n."""
        found, counts = {}, set()
        for name in self.names:
            x = cond.pop(name, None)
            if not isinstance(x, Tensor):
                raise TypeError(f"the composed posterior needs its observations, {name}=, a tensor, got {type(x).__name__}")
            if x.ndim == self.axes + 1:
                x = x[None]
            if x.ndim != self.axes + 2 or len(x) not in (1, len(z)):
                raise ValueError(
                    f"{name} must have shape (n, *observation) or (B, n, *observation) with {self.axes} axes in an observation, got "
                    f"{tuple(x.shape)} for a batch of {len(z)}"
                )
            counts.add(x.shape[1])
            found[name] = x.expand(len(z), *x.shape[1:]).flatten(0, 1)
        if len(counts) != 1:
            raise ValueError(f"{', '.join(self.names)} hold different numbers of observations, {sorted(counts)}")
        return found, counts.pop()

    def extra_repr(self) -> str:
        return f"method={self.method!r}, names={self.names}"


def composed(
    model: Model,
    prior: Model,
    method: Literal["gauss", "jac", "sum"] = "gauss",
    *,
    precision: object = None,
    prior_precision: object = None,
    names: Sequence[str] = ("x",),
    axes: int = 1,
) -> Composed:
    """The posterior of n observations as a model, from that of one; the formulas are in the docstring of the module.

        many = composed(model, prior, precision=posterior_precision(model, x, ...))
        ss.sample(many, (1000, 3), nfe=20, x=x)                                  # x of shape (n, *observation)

    n is read in every call; with n = 1 it is the model itself. Each call evaluates the network on B n rows.

    Args:
        model: the posterior of one observation, p(theta | x_i).
        prior: the model of p(theta) on the same path: `analytic.GaussianMixture(...).model(sde)`, `uniform_prior`, or a network.
        method: "gauss", "jac" or "sum".
        precision: of "gauss": C_i^{-1}, `(d, d)` for all observations or `(n, d, d)`.
        prior_precision: of "gauss": the inverse covariance of the prior `(d, d)`; known of a mixture and of a box.
        names: the conditions that hold observations. A call brings them as `(n, *observation)`, or `(B, n, *observation)` for other
            observations in each sample. With n = B and `batch_size=`, write `(1, n, *observation)`: rows of a batch are split.
        axes: axes of one observation.

    Raises:
        TypeError: arguments of other types.
        ValueError: an unknown method, a prior on another path, or a precision that is missing.
    """
    return Composed(model, prior, method, precision=precision, prior_precision=prior_precision, names=names, axes=axes)


def posterior_precision(
    model: Model, event: Sequence[int], x: Tensor, draws: int = 1000, name: str = "x", nugget: float = 0.0, **options: Any
) -> Tensor:
    """C_i^{-1} of each observation from samples of its own posterior, `(n, d, d)` float64: the inverse of the centred covariance.

    Args:
        model: the posterior of one observation.
        event: the shape of one theta.
        x: observations, `(n, *observation)`.
        draws: samples for each observation.
        name: the condition that holds the observation.
        nugget: a share of the mean variance that is added to the diagonal, for few draws in many dimensions.
        **options: for `sample`, such as `nfe=20`.

    Raises:
        ValueError: `draws` is not above the number of coordinates.
    """
    d = int(torch.Size(event).numel())
    as_count("draws", draws, d + 1)
    as_number("nugget", nugget, 0.0)
    each = x.repeat_interleave(draws, 0)
    drawn: Tensor = sample(model, (len(each), *event), **{**options, name: each})
    theta = drawn.double().reshape(len(x), draws, d)
    centred = theta - theta.mean(1, keepdim=True)
    covariances = centred.mT @ centred / (draws - 1)
    mean = covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return torch.linalg.inv(covariances + nugget * mean * torch.eye(d, dtype=torch.float64, device=theta.device))


def _precision(prior: Model) -> Tensor:
    """The inverse covariance of a prior whose moments are known.

    Raises:
        ValueError: another model.
    """
    if isinstance(prior, BoxModel):
        return prior.precision
    if not isinstance(prior, MixtureModel):
        raise ValueError(
            "method='gauss' needs prior_precision=, the inverse covariance of the prior, for a prior that is a network"
        )
    mixture = prior.mixture
    centred = mixture.means - mixture.weights @ mixture.means
    covariance = (centred.mT * mixture.weights) @ centred
    for weight, values, k in zip(mixture.weights, mixture.variances, range(len(mixture.weights)), strict=True):
        basis = torch.eye(len(values), dtype=values.dtype, device=values.device) if mixture.basis is None else mixture.basis[k]
        covariance = covariance + weight * (basis * values) @ basis.mT
    return torch.linalg.inv(covariance)


def _jacobian(field: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The values `(B, *event)` of a field at `z` and its Jacobians `(B, d, d)`, made symmetric."""
    outer, d = torch.is_grad_enabled(), flatten_events(z).shape[1]
    v = differentiable(z)
    with torch.enable_grad():
        value = field(v)
        columns = flatten_events(value).unbind(1)
    one = torch.ones_like(columns[0])
    rows = [torch.autograd.grad(column, v, one, retain_graph=True, create_graph=outer)[0].reshape(len(z), d) for column in columns]
    j = torch.stack(rows, 1).double()
    return (value if outer else value.detach()), 0.5 * (j + j.mT)


def _inverse(factor: Tensor, jacobian: Tensor, r2: Tensor) -> Tensor:
    """The inverses of covariances `factor` times a Jacobian, `(B, d, d)`. A variance that is not positive counts as one millionth of r^2."""
    v = factor * jacobian
    values, basis = torch.linalg.eigh(torch.nan_to_num(v))
    values = torch.maximum(values, 1e-6 * r2[:, 0])
    inverse: Tensor = (basis / values[:, None]) @ basis.mT
    return torch.where(v.isfinite().all(2).all(1)[:, None, None], inverse, torch.nan)


def _repeated(at: PreparedData, n: int) -> PreparedData:
    """A time of a call for n rows in place of each: times of one a sample are repeated, all else serves any batch."""

    def each(value: Any) -> Any:
        return value.repeat_interleave(n, 0) if isinstance(value, Tensor) and value.ndim == 1 and len(value) > 1 else value

    return PreparedData(*(each(value) for value in at))


def _each(value: Any, b: int, n: int) -> Any:
    """Another condition for n rows in place of each."""
    return value.repeat_interleave(n, 0) if isinstance(value, Tensor) and value.shape[:1] == (b,) else value
