"""The graph of a network that is called once."""

import torch
from torch import nn

from actprune.graph import Tracer, prunable_layers
from actprune.nodes import Graph


def graph_of(model, *inputs, train=False, **named):
    model.train(train)
    with torch.set_grad_enabled(train), Tracer(model, prunable_layers(model)) as tracer:
        model(*inputs, **named)
    graph = tracer.graph()
    assert Graph.from_dict(graph.to_dict()) == graph
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    return graph


def place(graph, name):
    site = graph.sites[name]
    return site.kind, site.where, site.call, site.operation, site.exact_zero


class Net(nn.Module):
    """Any forward over a bag of layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def lenet(run):
    return Net(
        run, c1=nn.Conv2d(1, 4, 3), b1=nn.BatchNorm2d(4), c2=nn.Conv2d(4, 6, 3), f1=nn.Linear(54, 5), f2=nn.Linear(5, 2)
    )


IMAGE = torch.randn(2, 1, 12, 12)
