"""What importing costs and drags in, and that the public calls exist."""

import subprocess
import sys

import scoresde as ss


def test_import_needs_torch_and_einops_only():
    """A fresh interpreter where everything else is blocked, and no module of the heavy ones is loaded."""
    script = """
import sys
blocked = {"scipy", "torchsde", "safetensors", "typer", "matplotlib", "sklearn", "PIL", "tqdm", "tabulate", "mlxtend"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked and not any("torch/" in (f.f_code.co_filename) for f in frames()):
            raise ImportError(name)
def frames():
    frame = sys._getframe(2)
    while frame:
        yield frame
        frame = frame.f_back
import torch
before = set(sys.modules)
sys.meta_path.insert(0, Block())
import scoresde
import scoresde.train, scoresde.data
new = {name.split(".")[0] for name in set(sys.modules) - before} & blocked
assert not new, new
scoresde.sample(scoresde.analytic.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).model(scoresde.VPSDE()), (2, 2), steps=3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_contract_exists():
    for name in (
        "VPSDE",
        "ScoreModel",
        "sample",
        "encode",
        "decode",
        "log_likelihood",
        "bits_per_dim",
        "analytic",
        "losses",
        "networks",
        "solvers",
        "grids",
    ):
        assert hasattr(ss, name)
    for name in (
        "names",
        "get",
        "Ancestral",
        "DDIM",
        "EulerMaruyama",
        "ProbabilityFlow",
        "DPMSolverPP",
        "select",
        "fit",
        "load",
        "calibrate",
    ):
        assert hasattr(ss.solvers, name)
    assert hasattr(ss.tableau, "Tableau")
    for name in ("uniform", "half_log_snr", "karras", "quadratic", "ddpm"):
        assert hasattr(ss.grids, name)
