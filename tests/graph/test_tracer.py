"""Watching one forward pass: failures, inputs and outputs of any kind, wrappers."""

import pytest
import torch
from torch import nn

from actprune.graph import Tracer, prunable_layers
from actprune.nodes import Consumer
from support.graphs import Net, graph_of, place


def test_a_failed_forward_leaves_nothing_behind_and_the_next_is_traced():
    def run(n, x):
        h = n.a(x)
        if x.shape[0] == 3:
            raise ValueError("boom")
        return n.b(torch.relu(h))

    net = Net(run, a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    with torch.no_grad(), Tracer(net, prunable_layers(net)) as tracer:
        with pytest.raises(ValueError, match="boom"):
            net(torch.randn(3, 4))
        assert torch._C._len_torch_function_stack() == 0
        net(torch.randn(2, 4))
    assert place(tracer.graph(), "a.weight")[3] == "relu"


def test_keyword_inputs_and_structured_outputs():
    net = Net(
        lambda n, *, image, scale=1.0: [{"y": n.b(torch.relu(n.a(image)))}, scale], a=nn.Linear(4, 3), b=nn.Linear(3, 2)
    )
    graph = graph_of(net, image=torch.randn(2, 4))
    assert graph.outputs == ("b.weight",)
    assert graph.consumers["a.weight"] == (Consumer("b.weight", 1, True),)


def test_wrapped_models_have_clean_names():
    inner = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    compiled = torch.compile(inner, backend="eager")
    layers = prunable_layers(compiled)
    assert list(layers) == ["0.weight", "2.weight"]
    assert all(compiled.get_submodule(path).weight is inner.get_parameter(name) for name, path in layers.items())
