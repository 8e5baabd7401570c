"""How foreign networks are called, and the sign of what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...models.score_model import as_output

# How a network is called with (z, time, **cond).
Call = Callable[..., Any]


def state_first(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """`network(z, time, **cond)`."""
    return network(z, time, **cond)


def time_first(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """`network(time, z, **cond)`, as torchcfm and torchdyn call networks."""
    return network(time, z, **cond)


def by_keyword(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """`network(x=z, t=time, **cond)`, as flow_matching calls networks."""
    return network(x=z, t=time, **cond)


class Called(nn.Module):
    """A foreign network in the order of ours, `(z, time, **cond)`.

    Args:
        network: the network. It returns a tensor, or a tuple, dict or dataclass that holds one (`models.score_model.as_output`).
        call: how it is called.
        sign: -1 returns the negative of the network's output.
    """

    def __init__(self, network: nn.Module, call: Call = state_first, sign: int = 1) -> None:
        super().__init__()
        self.network, self.call, self.sign = network, call, sign

    def forward(self, z: Tensor, time: Tensor, **cond: Any) -> Tensor:
        """sign times the network's output, of the shape of `z`."""
        out = as_output(self.call(self.network, z, time, **cond))
        return out if self.sign == 1 else -out
