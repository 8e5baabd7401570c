"""The model card of a model: README.md with the front matter of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..models.score_model import ScoreModel
from ..sde.prediction import Preconditioned

TAGS = ("scoresde", "diffusion", "score-based-generative-modeling")


def card(
    model: ScoreModel,
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    event: Sequence[int] | None,
    about: Mapping[str, object],
) -> str:
    """The text of README.md.

    Args:
        description: of `describe`.
        tensors: the weights.
        event: the shape of one sample, where it is known.
        about: further lines; "license" goes into the front matter too.
    """
    process, prediction = description["sde"]["class"], _prediction(model)
    front = {
        "library_name": "scoresde",
        **({"license": str(about["license"])} if "license" in about else {}),
        "tags": [*TAGS, process.lower(), f"{prediction.split()[0]}-prediction"],
    }
    network = description["network"]
    arguments = ", ".join(f"{name}={value}" for name, value in network.get("arguments", {}).items())
    time = description["time"] if isinstance(description["time"], str) else "a function of (sde, t)"
    rows = {
        "network": f"`{network['class']}({arguments})`" if arguments else f"`{network['class']}`",
        "numbers": f"{sum(tensor.numel() for tensor in tensors.values()):,}, {_dtypes(tensors)}",
        "process": f"`{model.sde!r}`",
        "prediction": prediction,
        "time of the network": time,
        **({"shape of a sample": f"`{tuple(event)}`"} if event is not None else {}),
        **about,
    }
    # JSON is YAML, so that no value can leave its line.
    lines = [f"{name}: {json.dumps(value)}" for name, value in front.items()]
    cells = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            "# A score-based generative model",
            "",
            "| | |",
            "|---|---|",
            *cells,
            "",
            *_usage(network, description, event),
            "",
        ]
    )


def _prediction(model: ScoreModel) -> str:
    if isinstance(model.prediction, Preconditioned):
        return f"edm (`sigma_data={model.prediction.scale():g}`)"
    return str(model.prediction)


def _dtypes(tensors: Mapping[str, Tensor]) -> str:
    return " and ".join(
        sorted({str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items() if name.startswith("network.")})
    )


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _usage(network: Mapping[str, Any], description: Mapping[str, Any], event: Sequence[int] | None) -> list[str]:
    """How to load the model and draw from it."""
    given = [
        *(["network=..."] if "arguments" not in network else []),
        *(["sde=..."] if "arguments" not in description["sde"] else []),
        *(["time=..."] if not isinstance(description["time"], str) else []),
    ]
    arguments = ", ".join(['"owner/name"', *given])
    code = ["import scoresde as ss", "", f"model = ss.from_pretrained({arguments})  # or the path of this folder"]
    if event is not None:
        code.append(f"x = ss.sample(model, {(16, *event)}, nfe=10)")
    return ["```python", *code, "```"]
