"""Keyword arguments of `sample` that the network does not take: most are options that this library has elsewhere."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from ..loops.base import LoopSolver
from ..models.base import Model
from ..models.score_model import ScoreModel
from .plans import Plan

GUIDANCE = "for guidance sample guidance.Guided(model, scale)"
START = "to start from an image: z, _ = model.sde.perturb(x, t), then z=z, t_start=t"
STATE = "to start from a state give z=, for other noise seeds= or generator="
STEPS = "the number of steps is steps=, the number of network calls nfe="
SEEDS = "for one seed a sample give seeds=range(n), for one stream generator=torch.Generator().manual_seed(seed)"
CLIPPING = "to clip data predictions sample models.thresholded(model)"
INPAINTING = "for inpainting see scoresde.inverse"

# What other libraries call an option, and what it is here.
ELSEWHERE = {
    **dict.fromkeys(("guidance_scale", "guidance", "cfg_scale", "cfg", "w"), GUIDANCE),
    **dict.fromkeys(("strength", "denoising_strength", "image", "init_image"), START),
    **dict.fromkeys(("z_t", "x_t", "latents", "noise"), STATE),
    **dict.fromkeys(("num_inference_steps", "num_steps", "n_steps", "sampling_steps", "timesteps"), STEPS),
    **dict.fromkeys(("seed", "random_seed"), SEEDS),
    **dict.fromkeys(("clip", "clip_sample", "clip_denoised", "thresholding", "dynamic_thresholding"), CLIPPING),
    **dict.fromkeys(("mask", "mask_image", "inpaint"), INPAINTING),
    **dict.fromkeys(("eta", "churn", "s_churn", "order", "tau"), "an option of a solver, such as solver=solvers.DDIM(eta=1.0)"),
    **dict.fromkeys(("sampler", "scheduler", "method"), "the solver is solver="),
    **dict.fromkeys(("sigmas", "spacing", "schedule"), "the times are grid="),
    **dict.fromkeys(("t_end", "t_stop", "end"), "sampling ends at the data, t = 0: trajectory=True has the states before"),
    **dict.fromkeys(("return_trajectory", "return_all", "return_intermediates"), "all states come with trajectory=True"),
    **dict.fromkeys(
        ("y", "labels", "class_labels", "classes"),
        "a class is label= in networks of this library; in others it has the name of their argument",
    ),
}


def require_known(model: Model, solver: object, cond: Mapping[str, object], options: Iterable[str]) -> None:
    """Raise for a condition that the network of a plain `ScoreModel` does not take, and say what it is here.

    A network that takes any condition gets it, with a warning where its name is almost that of an option.

    Args:
        model: a model that does more with its conditions than hand them to a network is not looked at.
        solver: nor is a model under a loop, which may take conditions of its own.
        cond: the conditions.
        options: the names that `sample` itself takes.

    Raises:
        TypeError: names the condition.
    """
    used = solver.solver if isinstance(solver, Plan) else solver
    if not cond or isinstance(used, LoopSolver) or not isinstance(model, ScoreModel) or type(model).output is not ScoreModel.output:
        return
    network: Any = model.network
    called: Callable[..., Any] = network.forward if isinstance(network, nn.Module) else network
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a built-in function
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in cond:
            if name not in options and (close := difflib.get_close_matches(name, options, n=1, cutoff=0.8)):
                warnings.warn(
                    f"{name}= goes to the network, which takes any name: did you mean {close[0]}=?", UserWarning, stacklevel=3
                )
        return
    # The first two are the state and the time.
    taken = [p.name for p in list(parameters)[2:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in cond:
        if name not in taken:
            close = difflib.get_close_matches(name, [*options, *taken], n=1, cutoff=0.75)
            hint = ELSEWHERE.get(name.lower(), f"did you mean {close[0]}=?" if close else "")
            conditions = f"the conditions that it takes are {', '.join(taken)}" if taken else "it takes no conditions"
            raise TypeError(f"{type(network).__name__} takes no {name}=: {hint or conditions}")
