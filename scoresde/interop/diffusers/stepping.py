"""A table under a host that has the loop: the host holds the state and calls the network, and `HostRun.step` makes the next state.

Let e_0 < e_1 < ... be the states at which a table calls the network. At its call i the host holds z_{e_i}, a state at the time of the call. So
whoever replaces the state (inpainting, a callback) knows its time.

Rows before the first call only scale the start, z_{e_0} = c z_0 (`solvers.LateFirstCall`, `solvers.FreeFirstStep`). The host cannot do them in
its loop, as it calls the network first: it starts from z_{e_0}.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...numerics.random import BatchNoise, NoiseSource, SeededNoise, derive_seed, noise_source
from ...sde.prediction import Prediction
from ...tableau.executor import Call, combine, execute
from ...tableau.tableau import Row, Tableau

Generators = torch.Generator | Sequence[torch.Generator] | None


def from_first_call(tableau: Tableau) -> tuple[Tableau, float]:
    """The table that starts at the first network call of `tableau`, and c with z_{e_0} = c z_0.

    Later rows that use a state before the call, z_j = c_j z_0, use (c_j/c) z_{e_0} in its place.

    Raises:
        ValueError: a row before the first call draws noise.
    """
    first = tableau.evaluated[0]
    if first == 0:
        return tableau, 1.0
    scale = [1.0]
    for row in tableau.rows[:first]:
        if row.xi:
            raise ValueError("the table draws noise before its first network call, which the loop of a pipeline cannot do")
        scale.append(sum(float(c) * scale[j] for j, c in row.z.items()))

    def moved(row: Row) -> Row:
        z: dict[int, float] = {}
        for j, coefficient in row.z.items():
            k, c = max(j - first, 0), float(coefficient)
            z[k] = z.get(k, 0.0) + (c if j >= first else c * scale[j] / scale[first])
        return Row(z, {j - first: c for j, c in row.data.items()}, row.xi)

    ends = [(at, to) for at, to in zip(tableau.step_evals, tableau.grid_states[1:], strict=True) if to > first]
    cut = replace(
        tableau,
        times=tableau.times[first:],
        rows=tuple(moved(row) for row in tableau.rows[first:]),
        grid_states=(0, *(to - first for _, to in ends)),
        step_evals=tuple(max(at - first, 0) for at, _ in ends),
    )
    return cut, scale[first]


class HostNoise:
    """Noise from the generator that the host passes with a step. Without one, from the scheduler's seed; with neither, from a fresh stream.

    Sample i of a batch depends on the seed and on i alone, or on generator i of a list alone.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.generator: Generators = None
        self._own: NoiseSource | None = None

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        return self._source(shape[0]).draw(shape, dtype, device, std)

    def _source(self, batch: int) -> NoiseSource:
        if self.generator is not None:
            generator = self.generator
            if not isinstance(generator, torch.Generator) and len(generator) == 1:
                (generator,) = generator  # as diffusers' randn_tensor has it
            return noise_source(generator, None, batch)
        if self._own is None:
            seed = self.seed
            self._own = BatchNoise() if seed is None else SeededNoise(derive_seed("scheduler", seed, i) for i in range(batch))
        return self._own

    def rewind(self) -> None:
        raise NotImplementedError("the host's generators are not ours to rewind")

    def part(self, start: int, stop: int, size: int) -> NoiseSource:
        raise NotImplementedError("the host steps whole batches")


class Stepped(NamedTuple):
    """What a step gives back: the next state in the host's dtype, and the data prediction at the state before."""

    z: Tensor
    data: Tensor


class HostRun:
    """One run of a table that starts with a network call.

    States are held in float32 at least. The host gets copies: a state that comes back unchanged is replaced by the exact one, and any other
    takes its place, so edits are honoured and half precision does not accumulate.

    Args:
        tableau: from `from_first_call`.
        prediction: of the outputs that come.
        noise: where the noises come from.
        clip: the range that data predictions are held to, [-clip, clip]; None for none. The table then runs on data predictions.
    """

    def __init__(self, tableau: Tableau, prediction: Prediction, noise: HostNoise, clip: float | None = None) -> None:
        self.tableau, self.noise, self.clip = tableau, noise, clip
        self.prediction: Prediction = prediction if clip is None else "data"
        self._to_data = tableau.conversions(prediction)
        self._loop: Generator[Call, Tensor, Tensor] | None = None
        self._call: Call | None = None
        self._returned: Tensor | None = None
        self._version = 0

    def step(self, out: Tensor, z: Tensor, generator: Generators) -> Stepped:
        """The state of the next network call, or the last state, from the state `z` of this call and the network's output there."""
        wide = torch.promote_types(z.dtype, torch.float32)
        if self._loop is None:
            self._loop = execute(self.tableau, self.prediction, z.to(wide, copy=True), self.noise)
            self._call = next(self._loop)
        elif self._edited(z):
            assert self._call is not None
            self._call.z.copy_(z)
        assert self._call is not None
        out = out.to(wide)
        c_z, c_out = self._to_data[self._call.k]
        data = combine([(self._call.z, c_z), (out, c_out)], wide)
        if self.clip is not None:
            out = data = data.clamp(-self.clip, self.clip)
        self.noise.generator = generator
        try:
            self._call = self._loop.send(out)
            state = self._call.z
        except StopIteration as end:
            self._call, state = None, end.value
        self._returned = state.to(z.dtype, copy=True)
        self._version = 0 if self._returned.is_inference() else self._returned._version
        return Stepped(self._returned, data.to(z.dtype))

    def _edited(self, z: Tensor) -> bool:
        """Whether `z` is another state than the one that the last step returned."""
        if z is not self._returned or self._call is None:
            return True
        if z.is_inference():  # torch counts no changes there
            return not torch.equal(z, self._call.z.to(z.dtype))
        return z._version != self._version
