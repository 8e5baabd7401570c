"""A network of a joint distribution under a mask of what is observed (Gloeckler et al. 2024, Simformer, arXiv 2404.09636).

The network sees v_obs where the mask is 1 and the noisy state elsewhere, beside the mask itself. States of the masked model hold the free
entries alone: samples, densities and losses are those of p(v_free | v_observed), in as many dimensions as are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..models.base import Model
from ..models.wrapper import Wrapper
from ..numerics.arrays import Time
from ..numerics.inputs import as_numbers, as_state, as_tensor
from ..sde.prediction import Prediction


class Masked(Wrapper):
    """The free entries of a joint model given the others; see `masked`."""

    def __init__(self, model: Model, mask: Tensor, value: object = None, flags: str | None = "mask") -> None:
        super().__init__(model)
        self.prediction: Prediction = model.prediction
        self.mask = as_tensor("mask", mask).bool()
        if self.mask.all() or self.mask.ndim == 0:
            raise ValueError("mask must have the shape of an event and leave an entry free")
        count = int(self.mask.sum())
        self.value = None if value is None else as_numbers("value", value).reshape(-1)
        if self.value is not None and self.value.shape != (count,):
            raise ValueError(f"value must hold the {count} observed entries, got shape {tuple(self.value.shape)}")
        self.flags = flags

    @property
    def free(self) -> int:
        """The number of free entries."""
        return int((~self.mask).sum())

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[Any]:
        return self.model.prepare(times, z.new_zeros(len(z), *self.mask.shape))

    def output(self, z: Tensor, t: Time, **cond: Any) -> Tensor:
        """The model's prediction of the free entries, `(B, free)`.

        Raises:
            TypeError: no observed entries are known.
            ValueError: `z` holds another number of entries, or an observed entry is NaN, which stands for nothing.
        """
        z = as_state("z", z)
        if z.shape[1:] != (self.free,):
            raise ValueError(
                f"states of this masked model hold its {self.free} free entries, (B, {self.free}), got {tuple(z.shape)}"
            )
        given = cond.pop("value", self.value)
        if not isinstance(given, Tensor):
            raise TypeError("the masked model needs its observed entries: masked(value=), or value= in the call")
        mask = self.mask.to(z.device)
        observed = given.to(z).expand(len(z), int(mask.sum()))
        joint = z.new_zeros(len(z), *mask.shape)
        joint = joint.masked_scatter(mask.expand_as(joint), observed).masked_scatter(~mask.expand_as(joint), z)
        flags = {} if self.flags is None else {self.flags: mask.to(z.dtype).expand(len(z), *mask.shape)}
        out = self.model.output(joint, t, **cond, **flags)
        return out[~mask.expand_as(out)].reshape(z.shape)

    def extra_repr(self) -> str:
        return f"{self.free} of {self.mask.numel()} entries free"


def masked(model: Model, mask: Tensor, value: object = None, *, flags: str | None = "mask") -> Masked:
    """p(v_free | v_observed) of a joint model whose network was trained with masks.

        post = masked(joint, mask, value=x_o)                  # mask is True at the data, False at the parameters
        ss.sample(post, (1000, post.free), nfe=20)

    An entry that is neither observed nor asked for is drawn with the free ones and left out afterwards. NaN stands for nothing.

    Args:
        model: predicts for the whole event.
        mask: True where an entry is observed, of the shape of an event.
        value: the observed entries of all samples, in order; else a call brings `value=`, `(B, observed)`.
        flags: the keyword under which the network takes the mask, `(B, *event)` of the dtype of the state; None for a network without.

    Raises:
        TypeError: `model` is no model.
        ValueError: a mask that leaves nothing free, or another number of values.
    """
    return Masked(model, mask, value, flags)
