"""Products of powers of densities, and tilted densities, by their scores.

    q(z, t)  ~  prod_i q_i(z, t)^{w_i}             score  = sum_i w_i s_i                    `product`
    q(z, t)  ~  p(z, t) exp(scale r(z, t))         score += scale grad_z r                   `tilted`

Neither is the diffused density of the product or the tilt of the data: samplers that follow these scores sample another law, and
`FeynmanKac` corrects them. At t = 1 the product is N(0, sigma^2/W) with W = sum_i w_i, from which sampling starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..models.base import Model, require_model
from ..models.data_wrapper import DataWrapper, PreparedData, differentiable, require_differentiable, times
from ..models.wrapper import Wrapper
from ..numerics.arrays import Time, expand
from ..numerics.cost import spend
from ..numerics.inputs import as_function, as_number, as_numbers, as_one_of, as_sequence, as_state
from ..sde.base import as_time
from ..sde.fingerprint import require_same_process
from ..sde.prediction import Prediction, conversion


class PreparedProduct(NamedTuple):
    """A time of a call: as each model prepared it, and the factors (c_z, c_out) from each output to the common prediction."""

    inner: tuple[Any, ...]
    factors: tuple[tuple[Time, Time], ...]


class Product(Wrapper):
    """sum_i w_i s_i as a model; see `product`."""

    def __init__(self, models: Iterable[Model], weights: object = None) -> None:
        models = as_sequence("models", models)
        if not models:
            raise ValueError("models is empty: a product needs a model")
        super().__init__(models[0])
        for model in models[1:]:
            require_model(model, "output", "prediction", "prepare")
            require_same_process(self.sde, model.sde, "a model of the product")
        self.weights = as_numbers("weights", [1.0] * len(models) if weights is None else weights).cpu()
        if self.weights.shape != (len(models),):
            raise ValueError(f"weights must be {len(models)} numbers, one a model, got shape {tuple(self.weights.shape)}")
        total = float(self.weights.sum())
        if total <= 0:
            raise ValueError(f"the weights sum to {total:g}: at t = 1 the product is N(0, sigma^2/sum), which needs a positive sum")
        self.others = nn.ModuleList() if all(isinstance(m, nn.Module) for m in models) else list(models[1:])
        if isinstance(self.others, nn.ModuleList):
            self.others.extend(models[1:])
        # With weights that sum to 1 every prediction combines alike; else the noise and the score alone.
        self.prediction: Prediction = models[0].prediction if abs(total - 1) < 1e-12 else "noise"
        self.start_scale = total**-0.5
        if abs(total - 1) > 1e-12:
            self.flow_note = (
                f"the flow of a product whose weights sum to {total:g} is not that of its density, and its samples collapse"
            )

    @property
    def models(self) -> tuple[Model, ...]:
        """The factors."""
        return (self.model, *self.others)

    def around(self, change: Callable[[Model], Model]) -> Product:
        return Product([change(model) for model in self.models], self.weights)

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[PreparedProduct]:
        """What every model prepares, and the factors of the conversions."""
        inner = zip(*(model.prepare(times, z) for model in self.models), strict=True)
        t = as_time(torch.tensor(times, dtype=torch.float64, device="cpu"))
        factors = [tuple(c.tolist() for c in conversion(self.sde, t, m.prediction, self.prediction)) for m in self.models]
        return [PreparedProduct(at, tuple((f[0][k], f[1][k]) for f in factors)) for k, at in enumerate(inner)]

    def output(self, z: Tensor, t: Time | PreparedProduct, **cond: object) -> Tensor:
        """sum_i w_i out_i with every output converted to the prediction of the product."""
        outs = self._outputs(as_state("z", z), t, cond)
        total = sum(w * out for w, out in zip(self.weights.tolist(), outs, strict=True))
        assert isinstance(total, Tensor)
        return total

    def factors(self, z: Tensor, t: Time, **cond: object) -> tuple[Tensor, Tensor]:
        """The weights `(K, B)` and the noise predictions `(K, B, *event)` of the models."""
        outs = self._outputs(as_state("z", z), t, cond)
        c_z, c_out = conversion(self.sde, t, self.prediction, "noise")
        noise = torch.stack([expand(c_z, z) * z + expand(c_out, z) * out for out in outs])
        return self.weights.to(z.device)[:, None].expand(-1, len(z)), noise

    def _outputs(self, z: Tensor, t: Time | PreparedProduct, cond: dict[str, object]) -> list[Tensor]:
        spend(len(z), network=len(self.models) - 1)
        if not isinstance(t, PreparedProduct):
            at = as_time(t)
            t = PreparedProduct(
                (at,) * len(self.models), tuple(conversion(self.sde, at, m.prediction, self.prediction) for m in self.models)
            )
        outs = []
        for model, inner, (c_z, c_out) in zip(self.models, t.inner, t.factors, strict=True):
            out = model.output(z, inner, **cond)
            if model.prediction != self.prediction:
                dtype = torch.promote_types(z.dtype, out.dtype)
                out = times(c_z, z.to(dtype)) + times(c_out, out.to(dtype))
            outs.append(out)
        return outs

    def extra_repr(self) -> str:
        return f"weights={[round(w, 6) for w in self.weights.tolist()]}"


def product(models: Sequence[Model], weights: Sequence[float] | None = None) -> Product:
    """prod_i q_i^{w_i} at every time, by the score sum_i w_i s_i; the docstring of the module says what its samples are.

    With weights that sum to 1 it is an affine combination of predictions: several guidances at once, or the scores of windows of a sequence.

    Args:
        models: on one path, with any predictions. All get the conditions of a call; `conditioned` gives one model its own.
        weights: any numbers of positive sum; 1 each by default.

    Raises:
        TypeError: an entry is no model, or the weights are no numbers.
        ValueError: another path, another number of weights, or a sum that is not positive.
    """
    return Product(models, weights)


class Tilted(DataWrapper):
    """p(z, t) exp(scale r) as a model; see `tilted`."""

    least_signal: ClassVar[float] = 1e-3

    def __init__(
        self,
        model: Model,
        log_weight: Callable[..., Tensor],
        through: Literal["state", "data"] = "state",
        scale: float = 1.0,
        takes: Sequence[str] = (),
    ) -> None:
        super().__init__(model)
        self.takes = tuple(as_sequence("takes", takes))
        self.log_weight = as_function("log_weight", log_weight, 2, *self.takes)
        self.through = as_one_of("through", through, ("state", "data"))
        self.scale = as_number("scale", scale)
        if self.through == "data":
            require_differentiable(self, model)

    def output(self, z: Tensor, t: Time | PreparedData, **cond: Any) -> Tensor:
        """D + scale sigma^2/alpha grad_z r, of the shape of `z`.

        Raises:
            RuntimeError: inside torch.inference_mode.
            ValueError: `log_weight` returned another shape than `(B,)`.
        """
        at = self.at(t)
        z = self.inner_state(z, at)
        data, shift = self.parts(z, at, cond)
        return data + self.scale * shift

    def parts(self, z: Tensor, at: PreparedData, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """D and sigma^2/alpha grad_z r at the state and the time `at` which the model inside is evaluated."""
        of_weight = {name: cond.pop(name) for name in self.takes if name in cond}
        outer = torch.is_grad_enabled()
        v = differentiable(z)
        with torch.enable_grad():
            data = self.inner_data(v, at, **cond) if self.through == "data" or outer else None
            r = self.log_weight(v if data is None or self.through == "state" else data, as_time(at.t), **of_weight)
            if not isinstance(r, Tensor) or r.shape != z.shape[:1]:
                raise ValueError(
                    f"log_weight must return one number for each sample, {tuple(z.shape[:1])}, got {getattr(r, 'shape', r)}"
                )
            (gradient,) = torch.autograd.grad(r.sum(), v, create_graph=outer)
        if self.through == "data":
            spend(len(z), vjps=1)
        if data is None:
            data = self.inner_data(z, at, **cond)
        alpha, sigma = self.sde.alpha(at.t), self.sde.sigma(at.t)
        shift = expand(sigma**2 / alpha, z) * gradient.to(z.dtype)
        return (data, shift) if outer else (data.detach(), shift)

    def log_tilt(self, z: Tensor, t: Time, **cond: Any) -> Tensor:
        """scale r(z, t) of each sample in nats, `(B,)`."""
        at = self.at(t)
        of_weight = {name: cond.pop(name) for name in self.takes if name in cond}
        z = self.inner_state(z, at)
        return self.scale * self.log_weight(
            z if self.through == "state" else self.inner_data(z, at, **cond), as_time(at.t), **of_weight
        )

    def extra_repr(self) -> str:
        return f"log_weight={self.log_weight!r}, through={self.through!r}, scale={self.scale:g}"


def tilted(
    model: Model,
    log_weight: Callable[..., Tensor],
    through: Literal["state", "data"] = "state",
    scale: float = 1.0,
    *,
    takes: Sequence[str] = (),
) -> Tilted:
    """`model` with the score + scale grad_z r: guidance by a classifier, an energy or a reward (Dhariwal and Nichol 2021, arXiv 2105.05233).

        ss.sample(tilted(model, log_prob, takes=["label"]), shape, label=label)       # log_prob(z, t, label=) of a noisy classifier

    The data prediction gets scale sigma^2/alpha grad_z r. Where alpha/sigma is below 1e-3 model and r are evaluated at the time where it is
    that, as in `models.data_wrapper`.

    Args:
        model: any model.
        log_weight: r, a function of `(v, t)`, which returns nats, `(B,)`: a sample's value depends on its own row. t is float64, a scalar or
            `(B,)`.
        through: "state": v = z, as a classifier of noisy states needs. "data": v = D(z, t), for one of clean data; the gradient then goes
            through the network.
        scale: a factor on r.
        takes: names of the conditions of a call that go to `log_weight`; the others go to the model.

    Raises:
        TypeError: arguments of other types.
        ValueError: an unknown `through`, or a model without gradients where they are needed.
    """
    return Tilted(model, log_weight, through, scale, takes)
