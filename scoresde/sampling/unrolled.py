"""A model and a plan as one module: every step of the table in a row, with its coefficients and the network's times as constants.

    unroll(model, plan)(z)  =  sample(model, z.shape, plan, z=z)

No loop and no decision is left, so `torch.export`, `torch.onnx.export(dynamo=True)` and `torch.jit.trace` take the module, and what they write
runs without this package. A table that draws noise gets all its draws xi_0, xi_1, ... as an input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ..models.base import Model
from ..models.score_model import NetworkTime
from ..models.training_mode import warn_if_training
from ..sde.bridge import Bridge
from ..solvers.tuned import TunedSolver
from ..tableau.executor import execute
from ..tableau.tableau import Tableau
from ..tuning import load
from ..tuning.cascade import Cascade
from .frames import frame_of
from .planning import plan
from .plans import Plan, TablePlan
from .start import start_std


def unroll(model: Model, planned: Plan | Tableau | TunedSolver | str | PathLike[str]) -> Unrolled:
    """`model` under a plan as a module `z -> x`.

    Args:
        model: any model. Call `model.eval()` first.
        planned: what `ss.plan` returned for the model's path, a tableau, or a fitted or selected solver or its file.

    Raises:
        TypeError: `model` is no model.
        ValueError: the plan is a loop, which decides while it runs; or one of another path; or the prediction does not determine the data at
            one of its times; or the model is on a bridge.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model must be a ScoreModel or another scoresde.Model, got {model!r}")
    if isinstance(model.sde, Bridge):
        raise ValueError("a bridge cannot be unrolled: its states depend on the known end of each sample")
    of_file = load(str(planned)) if isinstance(planned, str | PathLike) and str(planned).endswith(".safetensors") else planned
    if isinstance(of_file, Cascade):
        raise ValueError(
            "a cascade chooses a level for each sample, which no graph does: unroll the solver of one, cascade.levels[-1].solver"
        )
    made = plan(model, of_file)
    if not isinstance(made, TablePlan):
        raise ValueError(f"{made.solver} is a loop, which decides while it runs: only a solver that is a table can be unrolled")
    made.check(model)
    warn_if_training(model)
    return Unrolled(model, made.tableau)


class Unrolled(nn.Module):
    """Every step of a tableau in a row; see `unroll`.

    Attributes:
        model: the model.
        tableau: the table.
        nfe: network calls per sample.
        draws: how many noises the table draws; 0 for a deterministic one.
    """

    def __init__(self, model: Model, tableau: Tableau) -> None:
        super().__init__()
        self.model, self.tableau = model, tableau
        self.nfe, self.draws = tableau.nfe, len({j for row in tableau.rows for j in row.xi})
        tableau.program(model.prediction)  # raises
        self._prepare()

    @property
    def start_std(self) -> float:
        """The standard deviation of the noise to start from, the state at the first time of the table.

        Raises:
            TypeError: on a `LinearSDE` there is no single one; draw from `sde.prior`.
            ValueError: the state there still depends on the data.
        """
        return start_std(self.tableau.sde, self.tableau.times[0])

    def forward(self, z: Tensor, noises: Tensor | None = None, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        """The last state, `(B, *event)`, from the first one. Gradients flow through all steps unless the caller stops them.

        Args:
            z: the state at the first time of the table, `(B, *event)`, such as `start_std` times standard normal noise.
            noises: standard normal draws, `(draws, B, *event)`, in the order in which `sample` draws them; for a stochastic table alone.
            cond: what `sample` takes as keywords, such as {"label": labels}: torch.export cannot leave the batch of `**cond` open.

        Raises:
            ValueError: `noises` is missing, is not wanted, or has another shape.
        """
        check_noises(self.draws, z, noises)
        times = iter(self._times)
        frame = frame_of(self.model, {})
        loop = execute(self.tableau, self.model.prediction, frame.enter(z, self.tableau.times[0]), GivenNoise(noises))
        try:
            call = next(loop)
            while True:
                call = loop.send(frame.model.output(call.z, for_batch(next(times), call.z), **(cond or {})))
        except StopIteration as end:
            x: Tensor = end.value
        return frame.leave(x, self.tableau.times[-1])

    def _prepare(self) -> None:
        """The network's times, for a batch of one. Not buffers: half precision would round the index 999 to 1000."""
        times = [self.tableau.times[k] for k in self.tableau.evaluated]
        self._times = tuple(self.model.prepare(times, torch.empty(1, dtype=self.model.dtype, device=self.model.device)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Unrolled:
        """Behind `to`, `half`, `cuda`: what the network takes as its time depends on its dtype and device."""
        super()._apply(fn, recurse)
        self._prepare()
        return self

    def extra_repr(self) -> str:
        return f"nfe={self.nfe}, draws={self.draws}"


def for_batch(t: Any, z: Tensor) -> Any:
    """A prepared time with its `NetworkTime`, wherever a wrapper keeps it, repeated for each sample of `z`."""
    if isinstance(t, NetworkTime):
        return t._replace(time=t.time.expand(z.shape[0], *t.time.shape[1:]))
    if isinstance(t, tuple) and hasattr(t, "_fields"):
        return type(t)(*(for_batch(part, z) for part in t))
    return t


def check_noises(draws: int, z: Tensor, noises: Tensor | None) -> None:
    """Raise unless `noises` are what a table of `draws` draws needs.

    Raises:
        ValueError: says what is needed.
    """
    if draws and noises is None:
        raise ValueError(
            f"this table draws {draws} noises: give noises=torch.randn({draws}, *z.shape), or unroll a solver that draws none"
        )
    if noises is not None and (not draws or noises.shape[0] != draws or noises.shape[1:] != z.shape):
        wanted = f"needs noises of shape {(draws, *z.shape)}" if draws else "draws no noise"
        raise ValueError(f"this table {wanted}, got {tuple(noises.shape)}")


class GivenNoise:
    """Noise that was drawn before, in the order of the draws. A `NoiseSource` for one run."""

    def __init__(self, noises: Tensor | None) -> None:
        self._noises, self._next = noises, 0

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        assert self._noises is not None
        self._next += 1
        return std * self._noises[self._next - 1].to(device, dtype)

    def rewind(self) -> None:
        self._next = 0

    def part(self, start: int, stop: int, size: int) -> GivenNoise:
        return GivenNoise(None if self._noises is None else self._noises[:, start:stop])
