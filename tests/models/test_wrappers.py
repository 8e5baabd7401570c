"""Models that run compiled or as a CUDA graph."""

import pickle
from functools import partial

import pytest
import torch

import scoresde as ss
from scoresde import guidance, models, networks
from scoresde.models import compiled

from ..conftest import SDES, mixture

DDPM = SDES["ddpm"]


def test_a_compiled_network_gives_the_same_samples_and_is_compiled_once(monkeypatch):
    """By a backend that compiles nothing but counts the graphs it is given: one for all times and all calls."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = ss.ScoreModel(networks.MLP(2, width=8), DDPM)
    ours = [ss.sample(model, (4, 2), name, steps=9, seeds=range(4), compile=True) for name in ("ancestral", "dpm++2m")]
    theirs = [ss.sample(model, (4, 2), name, steps=9, seeds=range(4)) for name in ("ancestral", "dpm++2m")]
    torch.testing.assert_close(ours, theirs)
    assert len(graphs) == 1
    assert compiled(model) is compiled(model)
    assert set(model.state_dict()) == set(pickle.loads(pickle.dumps(model)).state_dict())
    with pytest.raises(ValueError, match="compiles the network of a ScoreModel"):
        ss.sample(mixture().model(DDPM), (4, 2), "ddim", steps=2, compile=True)


def test_cuda_graphs_are_refused_where_there_are_none():
    model = ss.ScoreModel(networks.MLP(2, width=8), DDPM)
    with pytest.raises(ValueError, match="needs states on a CUDA device, got cpu"):
        ss.sample(model, (4, 2), "ddim", steps=2, cuda_graph=True)
    with pytest.raises(ValueError, match="one network call without gradients"):
        ss.sample(model, (4, 2), "adaptive", cuda_graph=True)
    with pytest.raises(ValueError, match="captures the network of a ScoreModel"):
        ss.sample(mixture().model(DDPM), (4, 2), "ddim", steps=2, cuda_graph=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_guided_model_replays_a_graph_at_twice_the_batch():
    model = ss.ScoreModel(networks.MLP(2, width=32, classes=3), DDPM).cuda().eval()
    label = torch.arange(64, device="cuda") % 3
    ours, theirs = (
        ss.sample(guidance.Guided(m, 2.0, uncond={"label": -1}), (64, 2), "dpm++2m", steps=12, seeds=range(64), label=label)
        for m in (models.graphed(model), model)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("name", ["ancestral", "dpm++2m", "unipc3", "pc"])
def test_a_replayed_graph_gives_the_same_samples(name):
    model = ss.ScoreModel(networks.MLP(2, width=32), DDPM).cuda()
    ours, theirs = (ss.sample(model, (64, 2), name, steps=12, seeds=range(64), cuda_graph=graph) for graph in (True, False))
    torch.testing.assert_close(ours, theirs)
