"""The texts by which a folder of samples knows its model and its table stay what they were in scoresde 0.1."""

import torch

import scoresde as ss
from scoresde import guidance, networks
from scoresde.sampling.chunk_index import _layers, _rows_text
from scoresde.tableau import Row


def as_torch_writes(name, extra="", **children):
    module = type(name, (torch.nn.Module,), {"extra_repr": lambda self: extra})()
    for key, child in children.items():
        setattr(module, key, child)
    return module


def test_the_layers_of_a_model_are_written_as_torch_does():
    network = networks.MLP(2, width=8)
    model = ss.ScoreModel(network, ss.VPSDE())
    plain = as_torch_writes("ScoreModel", network=network)
    assert _layers(model) == repr(plain)
    assert _layers(network) == repr(network)
    guided = guidance.Guided(model, 3.0)
    assert _layers(guided) == repr(as_torch_writes("Guided", guided.extra_repr(), model=plain))
    assert _layers(guided).count("\n") > 5


def test_a_table_is_written_with_all_its_coefficients():
    rows = (Row({0: 0.5}, {0: 0.25}, {}), Row({1: 1 / 3}, {0: 1.0, 1: -2.0}, {0: 0.1}))
    one = "Row(z={0: 0.5}, data={0: 0.25}, xi={})"
    assert _rows_text(rows) == f"({one}, Row(z={{1: {1 / 3!r}}}, data={{0: 1.0, 1: -2.0}}, xi={{0: 0.1}}))"
    assert _rows_text(rows[:1]) == f"({one},)"
