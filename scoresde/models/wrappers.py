"""Models that run the network of another model in a faster way: `compiled` by torch.compile, `graphed` as a CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..numerics.arrays import Time
from .base import Model
from .score_model import NetworkTime, ScoreModel
from .wrapper import Wrapper

ModelT = TypeVar("ModelT", bound=Model)

# Beside the models and not in them, as compiled code can be neither pickled nor copied.
_COMPILED: WeakKeyDictionary[ScoreModel, ScoreModel] = WeakKeyDictionary()


def compiled(model: ModelT) -> ModelT:
    """`model` with its network under `torch.compile`; the weights are shared. One object, however often it is asked for.

    Inside a wrapper the networks of all models that it is around are compiled.

    Raises:
        ValueError: a model that is neither a `ScoreModel` nor a `Wrapper` of one.
    """
    if isinstance(model, Wrapper):
        return cast(ModelT, model.around(compiled))
    if not isinstance(model, ScoreModel):
        raise ValueError(f"compile=True compiles the network of a ScoreModel, got {type(model).__name__}")
    if model not in _COMPILED:
        twin = copy.copy(model)
        twin._modules = {**model._modules, "network": cast(nn.Module, torch.compile(model.network))}
        _COMPILED[model] = twin
    return cast(ModelT, _COMPILED[model])


def graphed(model: Model) -> GraphedModel:
    """`model` with its output replayed from a CUDA graph, for states of one shape.

    Raises:
        ValueError: `model` is no `ScoreModel`; in a call: see `GraphedModel`.
    """
    return GraphedModel(model)


class GraphedModel(Model):
    """A model whose network call is captured once in a CUDA graph and replayed: the host launches one graph in place of every kernel.

    It serves states of one shape, with conditions of the shapes of its first call. State, time and conditions are copied into the graph's own
    memory, and its result is copied out, so that a solver may keep results. The network must do the same work in every call: no branch on
    values, nothing drawn on the host.

    Raises:
        ValueError: `model` is no `ScoreModel`; in a call: the state is on no CUDA device, its shape or the conditions have changed, or the
            times differ from sample to sample.
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model, ScoreModel):
            inside = ": wrap scoresde.models.graphed(model) instead" if hasattr(model, "model") else ""
            raise ValueError(f"cuda_graph=True captures the network of a ScoreModel, got {type(model).__name__}{inside}")
        self.model, self.sde, self.prediction = model, model.sde, model.prediction
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[NetworkTime]:
        return self.model.prepare(times, z)

    def output(self, z: Tensor, t: Time | NetworkTime, **cond: object) -> Tensor:
        if not isinstance(t, NetworkTime):
            if isinstance(t, Tensor) and t.ndim:
                raise ValueError("a CUDA graph replays one time for the batch, but every sample has its own here")
            (t,) = self.prepare([float(t)], z)
        if self._graph is None:
            self._capture(z, t, cond)
        if z.shape != self._z.shape or {name: _form(value) for name, value in cond.items()} != self._forms:
            raise ValueError("the shape of the state or the conditions have changed since the graph was captured")
        self._fill(z, t, cond)
        assert self._graph is not None
        self._graph.replay()
        return self._out.clone()

    def _fill(self, z: Tensor, t: NetworkTime, cond: dict[str, object]) -> None:
        self._z.copy_(z)
        for name, value in cond.items():
            held = self._cond[name]
            if isinstance(value, Tensor) and isinstance(held, Tensor):
                held.copy_(value)
        self._time.copy_(t.time[:1])
        if t.scale is not None and self._t.scale is not None:
            self._t.scale.copy_(t.scale)

    def _capture(self, z: Tensor, t: NetworkTime, cond: dict[str, object]) -> None:
        if z.device.type != "cuda":
            raise ValueError(f"cuda_graph=True needs states on a CUDA device, got {z.device}")
        self._z, self._forms = z.clone(), {name: _form(value) for name, value in cond.items()}
        self._cond = {name: value.to(z.device, copy=True) if isinstance(value, Tensor) else value for name, value in cond.items()}
        # One number repeated without a copy, as the network sees it elsewhere.
        self._time = t.time[:1].clone()
        self._t = NetworkTime(self._time.expand(len(z)), None if t.scale is None else t.scale.clone(), t.dtype)
        # The first calls may allocate workspaces and compile, which a capture forbids: they run aside, as torch.cuda.graph asks.
        side = torch.cuda.Stream(z.device)
        side.wait_stream(torch.cuda.current_stream(z.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.model.output(self._z, self._t, **self._cond)
        torch.cuda.current_stream(z.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = self.model.output(self._z, self._t, **self._cond)


def _form(value: object) -> object:
    """What of a condition a graph holds for good: all of it, or the shape and the dtype of a tensor, whose values are copied."""
    return (value.shape, value.dtype) if isinstance(value, Tensor) else value
