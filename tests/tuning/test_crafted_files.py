"""Files of solvers that were cut, edited or made to harm: each is refused with its name, and nothing in it is executed."""

import json
import os
import pickle
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import scoresde as ss
from scoresde import solvers
from scoresde.solvers.tuned import FORMAT

from ..conftest import SDES, mixture


def parts(path):
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[FORMAT])  # noqa: SIM118


def refused(path):
    with pytest.raises(ValueError, match=re.escape(str(path))):
        solvers.load(path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        solvers.get(str(path))


@pytest.fixture
def saved(fitted, late_fitted, cascade, tmp_path):
    """The path of each kind of file."""
    picked = solvers.select(mixture().model(SDES["ddpm"]), 5, (2,), 8, reference_steps=32)
    paths = {}
    for kind, solver in (("fitted", fitted), ("late", late_fitted), ("selected", picked), ("cascade", cascade)):
        paths[kind] = tmp_path / f"{kind}.safetensors"
        solver.save(paths[kind])
    return paths


def test_a_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    for raw in (pickle.dumps(Evil()), b"", b"\x80\x04", b"\xff" * 100, b"PK\x03\x04"):
        (tmp_path / "x.safetensors").write_bytes(raw)
        refused(tmp_path / "x.safetensors")
    torch.save({"a": Evil()}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "meta",
    [
        "", "{{{", "null", "[]", "5", '"fitted"', "[" * 100_000, '{"a":' * 100_000, "{}", '{"kind": "x"}', '{"kind": null}', '{"kind": []}',
        '{"kind": "fitted", "nfe": 4}', '{"kind": "selected", "name": ""}', '{"kind": "ladder"}', '{"kind": "ladder", "rungs": []}',
        '{"kind": "ladder", "rungs": [5]}', '{"kind": "ladder", "rungs": {"a": 1}}',
    ],
    ids=lambda meta: meta[:30],
)  # fmt: skip
def test_json_that_describes_no_solver(tmp_path, meta):
    save_file({"times": torch.zeros(3)}, tmp_path / "x.safetensors", {FORMAT: meta})
    refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", ["fitted", "late", "selected", "cascade"])
def test_every_tensor_is_looked_at(saved, kind):
    path = saved[kind]
    tensors, meta = parts(path)
    for name, tensor in tensors.items():
        others = [None, tensor[..., None].clone(), tensor.to(torch.int32), tensor.to(torch.bfloat16)]
        # A table whose rows use no earlier state is one, too.
        others += [] if name.endswith("table/z") else [tensor[:0]]
        if tensor.is_floating_point() and tensor.numel():
            others += [torch.full_like(tensor, torch.nan), torch.full_like(tensor, torch.inf)]
        if name.endswith(("times", "grid")):
            others += [tensor.flip(0), tensor + 1]
        if re.search(r"table/(z|data)$", name):
            others += [
                tensor + torch.tensor(move, dtype=tensor.dtype)
                for move in ((-1, 0, 0), (0.5, 0, 0), (0, 50, 0), (0, 0.5, 0), (99, 0, 0))
            ]
            others += [torch.cat([tensor, tensor[:1]])]
        if name.endswith(("grid_states", "step_evals")):
            others += [tensor + 1, tensor - 1]
        for other in others:
            if other is not None and other.dtype == tensor.dtype and torch.equal(other, tensor):
                continue  # a table that draws no noise has no rows of it
            edited = {key: value.contiguous() for key, value in (tensors | {name: other}).items() if value is not None}
            save_file(edited, path, {FORMAT: json.dumps(meta)})
            try:
                refused(path)
            except pytest.fail.Exception:
                pytest.fail(f"{name}={other} is accepted")


@pytest.mark.parametrize("kind", ["fitted", "late", "selected", "cascade"])
def test_every_entry_is_looked_at(saved, kind):
    path = saved[kind]
    tensors, meta = parts(path)

    def edits(entries):
        for name, value in entries.items():
            rest = {key: other for key, other in entries.items() if key != name}
            if (kind, name) != ("cascade", "model"):  # files of scoresde 0.1 have none
                yield f"{name} left out", rest
            wrong = [None, {"a": 1}] if not isinstance(value, dict) else [None, 5]
            wrong += [] if isinstance(value, str) else ["x"]
            wrong += [True] if type(value) in (int, float) else []
            wrong += [float("nan"), float("inf")] if name == "gain" else []
            wrong += [float("nan"), 0.0, 2.0] if name == "t_start" else []
            for other in wrong:
                yield f"{name}={other!r}", rest | {name: other}

    for said, edited in edits(meta):
        save_file(tensors, path, {FORMAT: json.dumps(edited)})
        try:
            refused(path)
        except pytest.fail.Exception:
            pytest.fail(f"{said} is accepted")
    if kind == "cascade":
        for _, edited in edits(meta["rungs"][0]):
            save_file(tensors, path, {FORMAT: json.dumps(meta | {"rungs": [edited, *meta["rungs"][1:]]})})
            refused(path)


def test_a_solver_in_memory_does_not_see_what_its_file_becomes(saved, fitted):
    model = mixture().model(SDES["ddpm"])
    loaded = solvers.load(saved["fitted"])
    before, x = loaded.form.times.clone(), ss.sample(model, (3, 2), loaded, seeds=range(3))
    solvers.load(saved["selected"]).save(saved["fitted"])
    assert torch.equal(loaded.form.times, before)
    assert torch.equal(ss.sample(model, (3, 2), loaded, seeds=range(3)), x)
