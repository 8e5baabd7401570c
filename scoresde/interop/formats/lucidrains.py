"""Networks of denoising-diffusion-pytorch, inside the objects that trained them."""

from __future__ import annotations

from typing import Any

from ...models.learned_variance import LearnedVariance
from ...models.score_model import ScoreModel
from ...numerics.checkpoints import Checkpoint, load, pairs_by_name, read_checkpoint, without_prefix
from ...sde.families import EDM
from ...sde.prediction import Preconditioned, Prediction
from ...sde.vp import VPSDE

# Their names of predictions.
OBJECTIVES: dict[str, Prediction] = {"pred_noise": "noise", "pred_x0": "data", "pred_v": "velocity"}


def lucidrains(diffusion: Any, checkpoint: Checkpoint | None = None) -> ScoreModel:
    """The network in a `GaussianDiffusion` or an `ElucidatedDiffusion`, with the averaged weights of a checkpoint of their `Trainer`.

    Their data are in [-1, 1], to which they map images in [0, 1]: `diffusion.unnormalize` maps samples back. They clip in sampling, which is no
    part of a solver: `models.thresholded(model)` does it here.

    Args:
        diffusion: theirs, in evaluation mode. The checkpoint is loaded into it.
        checkpoint: a file, or what was read from one. The average (`ema`, with the prefix `ema_model.`) is taken where there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the object is not known, its network takes its own last prediction as an input, or a tensor does not fit.
    """
    kind = type(diffusion).__name__
    network = getattr(diffusion, "model", None) or getattr(diffusion, "net", None)
    if network is None:
        raise ValueError(
            f"{kind} has no network (attribute model or net): lucidrains needs a GaussianDiffusion or an ElucidatedDiffusion"
        )
    if getattr(diffusion, "self_condition", False) or getattr(network, "self_condition", False):
        raise ValueError(
            f"{kind} has self_condition=True: a call depends on the call before, and no solver here keeps that. "
            "ScoreModel(network, VPSDE.from_betas(diffusion.betas)) calls the network without, as half of its training did"
        )
    made = _model(kind, diffusion, network)
    if checkpoint is not None:
        entries = read_checkpoint(checkpoint)
        state = entries.get("ema", entries.get("model", entries))
        load(pairs_by_name(diffusion, without_prefix(state, "ema_model.")))
    return made


def _model(kind: str, diffusion: Any, network: Any) -> ScoreModel:
    if hasattr(diffusion, "sigma_data"):
        path = EDM(float(diffusion.sigma_min), float(diffusion.sigma_max))
        return ScoreModel(network, path, Preconditioned(float(diffusion.sigma_data)))
    betas, objective = getattr(diffusion, "betas", None), getattr(diffusion, "objective", None)
    if betas is None or objective not in OBJECTIVES:
        raise ValueError(
            f"{kind} with objective={objective!r} and {'no ' if betas is None else ''}betas is not known: objectives are "
            f"{', '.join(OBJECTIVES)}, on a chain of betas"
        )
    # LearnedGaussianDiffusion has the weight of its bound.
    family = LearnedVariance if hasattr(diffusion, "vb_loss_weight") else ScoreModel
    return family(network, VPSDE.from_betas(betas.double()), OBJECTIVES[objective])
