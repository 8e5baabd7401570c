"""`index.json`: what all chunks of a folder have in common. A folder takes no chunk that was drawn in another way.

Texts and hashes must be equal. Times and coefficients are kept as numbers, as their last digits differ between machines.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.base import Model
from ..numerics.files import digest, json_object, reading
from ..sde.fingerprint import schedule_fingerprint
from ..solvers.tuned import TunedSolver
from ..tableau.tableau import Row
from ..tuning.cascade import BoundedSolver, CascadeSolver
from .chunk_files import PARTIAL
from .plans import Plan, TablePlan
from .registry import name_of

INDEX = "index.json"
FORMAT = "scoresde samples 1"

Index = dict[str, Any]


def describe_model(model: Model) -> Index:
    """The classes and layers of a model, its weights and its process."""
    return {
        "model": f"{type(model).__name__} {_text_hash(_layers(model))}",
        "weights": digest(model.state_dict()) if isinstance(model, nn.Module) else None,
        "prediction": str(model.prediction),
        "process": {"name": type(model.sde).__name__, "coefficients": schedule_fingerprint(model.sde).tolist()},
    }


def describe_plan(planned: Plan) -> Index:
    """The solver of a plan and its times."""
    solver = planned.solver
    if isinstance(solver, TunedSolver):
        text = f"{solver} {digest(solver.state_dict()[0])}"
    elif solver is None and isinstance(planned, TablePlan):
        text = f"tableau {_text_hash(_rows_text(planned.tableau.rows))}"
    elif isinstance(solver, CascadeSolver | BoundedSolver):
        text = f"{solver} {digest(solver.cascade.state_dict()[0])}"
    else:
        text = name_of(solver)
    return {"solver": text, "times": planned.times.tolist(), "steps": planned.steps, "max_steps": planned.max_steps}


def _layers(model: object) -> str:
    """The layers of a model as torch writes them, also those inside a model of ours, which is one line by itself."""
    if not (isinstance(model, nn.Module) and isinstance(model, Model)):
        return repr(model)
    children = [f"({name}): {_layers(child)}".replace("\n", "\n  ") for name, child in model.named_children()]
    extra = model.extra_repr().splitlines()
    inside = "".join(extra) if len(extra) == 1 and not children else "".join(f"\n  {part}" for part in (*extra, *children)) + "\n"
    return f"{type(model).__name__}({inside})"


def _rows_text(rows: tuple[Row, ...]) -> str:
    """All coefficients, in the form in which they are written since scoresde 0.1."""
    texts = [f"Row(z={row.z!r}, data={row.data!r}, xi={row.xi!r})" for row in rows]
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def _text_hash(text: str) -> str:
    """A hash of the text of an object, whatever address it has in this process."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", text).encode()).hexdigest()[:16]


def read_index(folder: Path) -> Index:
    """The index of a folder.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is no index of this version.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no samples: there is no {INDEX}")
    with reading(path):
        index = json_object(path.read_text())
    if index.get("format") != FORMAT:
        raise ValueError(f"{path} is no index of this version of scoresde")
    return index


def claim(folder: Path, mine: Index) -> None:
    """Write the index of a folder, or agree with that of the first process. A larger `n` takes the place of a smaller one.

    Raises:
        ValueError: the folder was begun with other settings; names what differs.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INDEX
    if not path.exists():
        partial = _written(folder, mine)
        try:
            # A link is made only where there is no file: of two processes that come at once one is the first.
            os.link(partial, path)
        except FileExistsError:
            pass
        except OSError:
            os.replace(partial, path)  # a file system without links
        partial.unlink(missing_ok=True)
    there = read_index(folder)
    # A set that grows may have had fewer samples than are compared.
    known = min(len(there["conditions"]), len(mine["conditions"]))
    differ = list(differences(*({**index, "n": 0, "conditions": index["conditions"][:known]} for index in (there, mine))))
    if differ:
        raise ValueError(f"{folder} holds samples of other settings: {'; '.join(differ)}. Take another folder")
    if mine["n"] > there["n"]:
        os.replace(_written(folder, mine), path)


def _written(folder: Path, index: Index) -> Path:
    partial = folder / f"{INDEX}.{secrets.token_hex(4)}{PARTIAL}"
    partial.write_text(json.dumps(index, indent=1))
    return partial


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two indices, in words."""
    # Through JSON once, as a file returns tuples as lists.
    here = json.loads(json.dumps(here))
    other_model = there.get("model") != here.get("model")
    for name in {**there, **here}:
        if other_model and name in ("model", "weights"):
            # The weights of another model have other names, so that their hashes differ in any case.
            if name == "model":
                yield "another model or guidance"
            continue
        before, now = there.get(name), here.get(name)
        if not _agree(before, now):
            long = max(len(str(before)), len(str(now))) > 60
            yield f"other {name}" if long else f"{name} {before} there and {now} here"


def _agree(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_agree(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_agree, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def conditions_digest(cond: Mapping[str, object]) -> str:
    """A hash of conditions: of the bytes of tensors, and of the text of all else."""
    flat, spec = torch.utils._pytree.tree_flatten(dict(cond))
    tensors = {str(k): value for k, value in enumerate(flat) if isinstance(value, torch.Tensor)}
    rest = [None if isinstance(value, torch.Tensor) else repr(value) for value in flat]
    return f"{digest(tensors)[:16]} {_text_hash(f'{spec} {rest}')}"
