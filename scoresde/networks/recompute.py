"""Less memory in training: activations that are computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run(block: nn.Module, recompute: bool, *inputs: Any) -> Tensor:
    """`block(*inputs)`. With `recompute`, its activations are not kept for the backward pass but computed again, with the same dropout."""
    if recompute and torch.is_grad_enabled():
        kept: Tensor = checkpoint(block, *inputs, use_reentrant=False)
        return kept
    out: Tensor = block(*inputs)
    return out
