"""Networks in the formats of other libraries as score models, each in one line. No library is imported.

formats.score_sde(network, config, checkpoint)      score_sde, score_sde_pytorch
formats.edm(network)                                EDM, EDM2, and denoisers D(x, sigma)
formats.azula(denoiser)                             azula
formats.lucidrains(diffusion)                       denoising-diffusion-pytorch
formats.openai(network, learn_sigma=True)           improved-diffusion, guided-diffusion
formats.velocity(network, direction=...)            flow matching: torchcfm, flow_matching
"""

from .calls import by_keyword, state_first, time_first
from .denoisers import azula, edm
from .flows import velocity
from .lucidrains import lucidrains
from .openai import openai, respaced
from .score_sde import score_sde

__all__ = [
    "azula",
    "by_keyword",
    "edm",
    "lucidrains",
    "openai",
    "respaced",
    "score_sde",
    "state_first",
    "time_first",
    "velocity",
]
