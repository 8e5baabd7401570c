"""Arguments that mean nothing, by kind, and what may stand for a number or a state all the same."""

import math

import numpy as np
import pytest
import torch

# Neither text nor anything without one finite real value is a number; a truth value is a slip.
NO_NUMBERS = ("1", b"1", None, math.nan, math.inf, -math.inf, True, 1j, [1.0], torch.tensor([0.1, 0.2]), 10**400)
NO_COUNTS = ("3", None, math.nan, math.inf, -1, 0, True, 2.5, 3.0, [1], torch.tensor([1, 2]))

HALVES = (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5))
FOURS = (4, np.int64(4), torch.tensor(4))

NO_STATES = {
    "integers": torch.ones(3, 2, dtype=torch.int64),
    "bytes": np.ones((3, 2), np.uint8),
    "a list of integers": [[1, 2], [3, 4], [5, 6]],
    "truth values": torch.ones(3, 2, dtype=torch.bool),
    "complex": torch.ones(3, 2, dtype=torch.complex64),
    "a scalar": torch.tensor(1.0),
    "an event of size 0": torch.zeros(3, 0),
    "text": "x",
    "nothing": None,
    "a dict": {"x": torch.ones(3, 2)},
    "sparse": torch.ones(3, 2).to_sparse(),
}


def states():
    """The same numbers in each form that a state may have."""
    x = torch.tensor([[0.5, -1.0], [0.25, 0.75], [-1.5, 0.125]])
    return {
        "tensor": x,
        "array": x.numpy(),
        "array with a negative stride": x.flip(0).numpy()[::-1],
        "read-only array": np.broadcast_to(x.numpy(), (3, 2)),
        "lists": x.tolist(),
        "transposed": x.t().contiguous().t(),
        "double": x.double(),
        "bfloat16": x.bfloat16(),
        "float16": x.half(),
        "with a gradient": x.clone().requires_grad_(),
    }


def refuses(name, call, values):
    """Every value is refused by an error that names the argument."""
    for value in values:
        with pytest.raises((TypeError, ValueError), match=name):
            call(value)
