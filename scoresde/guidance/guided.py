"""Guidance: a strong prediction c is pushed away from a weak one u,

    out = u + w (c - u) = c + (w - 1) (c - u).

    classifier-free guidance    u is the same model without its condition    Ho and Salimans 2022, arXiv 2207.12598, eq. 6
    autoguidance                u is another, weaker model                   Karras et al. 2024, arXiv 2406.02507, eq. 3

Ho and Salimans write w - 1 for w. The weights 1 - w and w sum to 1: the formula is the same for data, noise, score and velocity, and acts on
the network's own output. A guided model is a model, which every solver, grid and density takes.

The samples follow no tilted density p(x|c)^w p(x)^(1-w): that one is not the diffused one at t > 0. For p(x|c) = N(m, S_c) and p(x) = N(0, S_u)
the probability flow ends with the variance S_c^w S_u^(1-w), and the tilt has 1/(w/S_c + (1-w)/S_u). `FeynmanKac` samples the tilt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.base import Model, require_model
from ..models.score_model import versions
from ..models.wrapper import Wrapper
from ..networks.labels import null_label
from ..numerics.arrays import Time, as_float64, expand, require_one_each, values_are_known
from ..numerics.cost import spend
from ..numerics.inputs import as_flag, as_state
from ..sde.base import as_time
from ..sde.fingerprint import require_same_process
from ..sde.prediction import Prediction, conversion
from .conditions import Conditions, like, stackable, twice
from .rules import Rule, ZeroStar, require_staying
from .weights import Interval, Weight, as_weight, weight_at

UNCONDITIONAL = "uncond_"


class PreparedGuidance(NamedTuple):
    """A time of a call.

    Attributes:
        t: the time.
        weight: w there before the interval acts, and `share` the interval's m; numbers where the time is prepared.
        strong, weak: the time as each model prepared it.
        to_strong, to_weak: factors (c_z, c_out) from each model's output to the guided prediction; None where it is the same.
        memo: what the calls of one run share: their conditions stay the same.
    """

    t: Time
    weight: Time
    share: Time | None
    strong: Any
    weak: Any
    to_strong: tuple[Time, Time] | None
    to_weak: tuple[Time, Time] | None
    memo: dict[str, Any]


class Guided(Wrapper):
    """u + w (c - u) as a model; the formulas are in the docstring of the module.

    The conditions of a call reach c. They reach u too, except that `uncond` and conditions named `uncond_<name>` replace those of the name.

        guided = Guided(model, 3.0)                                      # a network of scoresde with classes knows "no label"
        ss.sample(guided, (16, 1, 28, 28), label=labels)
        ss.sample(Guided(model, 7.5, uncond={"context": empty}), shape, context=prompt)
        ss.sample(Guided(model, 7.5), shape, context=prompt, uncond_context=negative_prompt)        # one row a sample

    Args:
        model: c.
        weight: w, where 1 is c and 0 is u; any number, or a function of `(sde, t)`. Both ends cost one network call. For one weight a sample
            give the call `guidance_weight=`, `(B,)`, in its place.
        weak: u, on the same path, with any prediction. By default the model itself.
        uncond: conditions of u, one value for all samples. By default {"label": `network.null`} where the model's network has `null` and
            no `weak` is given.
        interval: (low, high); guidance acts at low < sigma/alpha <= high only, and w = 1 elsewhere.
        ramp: the length in lambda over which w rises and falls at each edge. At 0 every solver is of first order.
        rule: in place of the linear formula: `rescaled`, `apg`, `zero_star`, or your own. The model then predicts what the rule acts on.
        batched: make c and u in one call of the network at twice the batch, where the conditions that differ are tensors of equal shape.

    Raises:
        TypeError: `model` or `weak` is no model, or an argument has a wrong type.
        ValueError: `weak` is on another path, or a number is out of range. In a call: nothing makes u different from c.
    """

    def __init__(
        self,
        model: Model,
        weight: Weight,
        weak: Model | None = None,
        *,
        uncond: Mapping[str, object] | None = None,
        interval: Sequence[float] | None = None,
        ramp: float = 0.0,
        rule: Rule | None = None,
        batched: bool = True,
    ) -> None:
        super().__init__(model)
        self.weight = as_weight(weight)
        if weak is not None:
            require_model(weak, "output", "prediction", "prepare")
            require_same_process(self.sde, weak.sde, "the weak model")
        self.weak = weak
        if uncond is not None and not isinstance(uncond, Mapping):
            raise TypeError(f"uncond must be a dict of conditions, such as {{'label': 10}}, got {uncond!r}")
        self.uncond = dict(_null_label(model) if uncond is None and weak is None else uncond or {})
        self.interval = Interval.of(interval, ramp)
        self.rule, self.batched = rule, as_flag("batched", batched)
        self.prediction: Prediction = model.prediction if rule is None else rule.space
        if isinstance(rule, ZeroStar) and rule.zero_above is not None:
            require_staying(self.sde, rule.zero_above)

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[PreparedGuidance]:
        """The weight and what both models prepare at each time."""
        t = torch.tensor(times, dtype=torch.float64, device="cpu")
        strong = self.model.prepare(times, z)
        weak = strong if self.weak is None else self.weak.prepare(times, z)
        shares = [None] * len(times) if self.interval is None else self.interval.share(self.sde, t).tolist()
        columns = zip(times, weight_at(self.sde, t, self.weight).tolist(), shares, strong, weak, strict=True)
        memo: dict[str, Any] = {}

        def factors(model: Model) -> list[tuple[Time, Time] | None]:
            found = self._factors(model, t)
            return [None] * len(times) if found is None else list(zip(*(f.tolist() for f in found), strict=True))

        to_strong, to_weak = factors(self.model), factors(self.weak or self.model)
        return [PreparedGuidance(*column, to_c, to_u, memo) for column, to_c, to_u in zip(columns, to_strong, to_weak, strict=True)]

    def output(self, z: Tensor, t: Time | PreparedGuidance, **cond: Any) -> Tensor:
        """The guided prediction, of the shape of `z`.

        Raises:
            ValueError: u has the model and the conditions of c.
        """
        z = as_state("z", z)
        at = t if isinstance(t, PreparedGuidance) else self._at(as_time(t))
        weight = self._weight(at, cond.pop("guidance_weight", None))
        if isinstance(weight, Tensor):
            require_one_each(weight, z)
        given = self._conditions(z, cond, at.memo)
        if isinstance(self.rule, ZeroStar) and self.rule.zero_above is not None and _all(at.t, above=self.rule.zero_above):
            spend(len(z), network=-1)
            return torch.zeros_like(z)
        if _all(weight, equal=1.0):
            c = self._strong(z, at, given.strong)
            return c if self.rule is None else self.rule(c, c, _factor(weight, c))
        if self.rule is None and _all(weight, equal=0.0):
            return self._weak(z, at, given.weak)
        c, u = self._both(z, at, given)
        if self.rule is None:
            return u + (weight if isinstance(weight, float) else _factor(weight, c)) * (c - u)
        w = _factor(weight, c)
        guided = self.rule(c, u, w)
        if isinstance(self.rule, ZeroStar) and self.rule.zero_above is not None and isinstance(at.t, Tensor):
            guided = torch.where(expand((at.t > self.rule.zero_above).double(), z) > 0, 0.0, guided)
        return guided

    def factors(self, z: Tensor, t: Time, **cond: Any) -> tuple[Tensor, Tensor]:
        """The weights `(2, B)` and the noise predictions `(2, B, *event)` of c and u, whose product of powers is the tilt.

        Raises:
            ValueError: a rule, an interval or a weight over time. With a rule the model is no product of powers. A weight that changes adds
                dw/dt log(q_c/q_u) to the rate of the particles' weights, which scores do not know.
        """
        if self.rule is not None or self.interval is not None or callable(self.weight):
            raise ValueError(
                "a guided model with a rule, an interval or a weight over time is no product of fixed powers of densities: leave them out"
            )
        at = self._at(as_time(t))
        w = as_float64(self._weight(at, cond.pop("guidance_weight", None))).to(z.device).expand(len(z))
        c, u = self._both(z, at, self._conditions(z, cond, at.memo))
        c_z, c_out = conversion(self.sde, t, self.prediction, "noise")
        noise = torch.stack([expand(c_z, z) * z + expand(c_out, z) * out for out in (c, u)])
        return torch.stack([w, 1 - w]), noise

    def _at(self, t: Tensor) -> PreparedGuidance:
        share = None if self.interval is None else self.interval.share(self.sde, t)
        to = (self._factors(self.model, t), self._factors(self.weak or self.model, t))
        return PreparedGuidance(t, weight_at(self.sde, t, self.weight), share, t, t, *to, {})

    def _factors(self, model: Model, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """(c_z, c_out) from the output of a model to the guided prediction; None where it is the same."""
        return None if model.prediction == self.prediction else conversion(self.sde, t, model.prediction, self.prediction)

    def _weight(self, at: PreparedGuidance, given: object) -> Time:
        """w of a call: a number, or a scalar or `(B,)` in float64."""
        weight = at.weight if given is None else torch.as_tensor(given, dtype=torch.float64)
        if at.share is None:
            return weight
        share = at.share.to(weight.device) if isinstance(at.share, Tensor) and isinstance(weight, Tensor) else at.share
        return 1 + (weight - 1) * share

    def _conditions(self, z: Tensor, cond: dict[str, Any], memo: dict[str, Any]) -> Conditions:
        """Those of c, of u and of both, made once for the calls of a run."""
        if torch.compiler.is_compiling():
            return self._new_conditions(z, cond)
        key = len(z), [(name, id(value)) for name, value in cond.items()], versions(cond)
        if memo.get("key") != key:
            # The conditions are held too, so that no other one gets the identity of one of them.
            memo.update(key=key, held=cond, made=self._new_conditions(z, cond))
        made: Conditions = memo["made"]
        return made

    def _new_conditions(self, z: Tensor, cond: dict[str, Any]) -> Conditions:
        strong = {name: value for name, value in cond.items() if not name.startswith(UNCONDITIONAL)}
        given = {name.removeprefix(UNCONDITIONAL): value for name, value in cond.items() if name.startswith(UNCONDITIONAL)}
        changed = {name: like(value, strong.get(name), z) for name, value in self.uncond.items()} | given
        if self.weak is None and not changed:
            raise ValueError(
                "nothing makes the weak prediction different: give Guided(uncond={name: value}) or weak=, or the call a condition "
                f"{UNCONDITIONAL}<name>"
            )
        weak = strong | changed
        together = self.batched and self.weak is None and stackable(z, strong, weak)
        both = {name: twice(value, weak[name], len(z)) for name, value in strong.items()} if together else None
        return Conditions(strong, weak, both)

    def _strong(self, z: Tensor, at: PreparedGuidance, cond: dict[str, Any]) -> Tensor:
        return _converted(self.model.output(z, at.strong, **cond), z, at.to_strong)

    def _weak(self, z: Tensor, at: PreparedGuidance, cond: dict[str, Any]) -> Tensor:
        return _converted((self.weak or self.model).output(z, at.weak, **cond), z, at.to_weak)

    def _both(self, z: Tensor, at: PreparedGuidance, given: Conditions) -> tuple[Tensor, Tensor]:
        """c and u, in one network call at 2B where that is possible."""
        spend(len(z), network=1)
        if given.both is None:
            return self._strong(z, at, given.strong), self._weak(z, at, given.weak)
        time = at.strong
        if isinstance(time, Tensor) and time.ndim:
            time = torch.cat([time, time])
        c, u = self.model.output(torch.cat([z, z]), time, **given.both).chunk(2)
        return _converted(c, z, at.to_strong), _converted(u, z, at.to_weak)

    def extra_repr(self) -> str:
        shown = {"weight": self.weight, "uncond": self.uncond, "interval": self.interval, "rule": self.rule}
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)


def _null_label(model: Model) -> dict[str, object]:
    """The label that means none, of a network that has one."""
    null = null_label(model) if isinstance(model, nn.Module) else None
    return {} if null is None else {"label": null}


def _converted(out: Tensor, z: Tensor, factors: tuple[Time, Time] | None) -> Tensor:
    """c_z z + c_out out; `out` itself for None."""
    if factors is None:
        return out
    dtype = torch.promote_types(z.dtype, out.dtype)
    c_z, c_out = (expand(torch.as_tensor(factor, dtype=torch.float64), z, dtype) for factor in factors)
    return c_z * z.to(dtype) + c_out * out.to(dtype)


def _factor(weight: Time, out: Tensor) -> Tensor:
    """A weight shaped to multiply predictions."""
    return expand(as_float64(weight), out)


def _all(values: Time, *, equal: float | None = None, above: float = 0.0) -> bool:
    """Whether all values are known on the host and `equal` to a number, or else `above` one."""
    if isinstance(values, float):
        return values == equal if equal is not None else values > above
    if not values_are_known(values):
        return False
    return bool(((values == equal) if equal is not None else values > above).all())
