"""Where activations are final, on nets whose answer is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.graph import Tracer, prunable_layers
from actprune.nodes import Consumer
from support.graphs import IMAGE, Net, graph_of, lenet, place


@pytest.mark.parametrize("train", [False, True])
def test_conv_norm_functional_relu_pool(train):
    def run(net, x):
        x = F.max_pool2d(F.relu(net.b1(net.c1(x))), 2)
        x = torch.relu_(net.c2(x))
        return net.f2(F.dropout(net.f1(torch.flatten(x, 1)).relu(), training=net.training))

    graph = graph_of(lenet(run), IMAGE, train=train)
    assert list(graph.sites) == ["c1.weight", "c2.weight", "f1.weight", "f2.weight"]
    assert place(graph, "c1.weight") == ("function", "torch.nn.functional.relu", 0, "relu", True)
    assert place(graph, "c2.weight") == ("function", "torch.relu_", 0, "relu", True)
    assert place(graph, "f1.weight") == ("function", "Tensor.relu", 0, "relu", True)
    assert place(graph, "f2.weight") == ("module", "f2", 0, "none", False)
    assert [graph.sites[name].axis for name in graph.sites] == [1, 1, -1, -1]
    assert graph.consumers == {
        "c1.weight": (Consumer("c2.weight", 1, True),),
        "c2.weight": (Consumer("f1.weight", 9, True),),
        "f1.weight": (Consumer("f2.weight", 1, True),),
        "f2.weight": None,
    }
    assert graph.outputs == ("f2.weight",)


def test_execution_order_not_registration_order():
    net = Net(lambda n, x: n.a(F.relu(n.b(x))), a=nn.Linear(3, 2), b=nn.Linear(4, 3))
    assert list(graph_of(net, torch.randn(2, 4)).sites) == ["b.weight", "a.weight"]


@pytest.mark.parametrize(
    ("activation", "operation", "exact"),
    [
        (nn.ReLU(), "relu", True),
        (nn.ReLU(inplace=True), "relu", True),
        (nn.ReLU6(), "hardtanh", True),
        (nn.Hardtanh(), "hardtanh", False),
        (nn.Hardtanh(0, 2), "hardtanh", True),
        (nn.LeakyReLU(), "leaky_relu", False),
        (nn.GELU(), "gelu", False),
        (nn.SiLU(), "silu", False),
        (nn.Tanh(), "tanh", False),
        (nn.Sigmoid(), "sigmoid", False),
        (nn.ELU(), "elu", False),
        (nn.SELU(inplace=True), "selu", False),
        (nn.Mish(), "mish", False),
        (nn.Softplus(), "softplus", False),
        (nn.PReLU(), "prelu", False),
        (nn.Hardswish(), "hardswish", True),
        (nn.Threshold(0.1, 0.0), "threshold", True),
        (nn.Threshold(0.1, 5.0), "threshold", False),
        (nn.Softshrink(), "softshrink", True),
        (nn.Hardshrink(), "hardshrink", True),
    ],
    ids=str,
)
def test_activation_modules(activation, operation, exact):
    graph = graph_of(nn.Sequential(nn.Linear(4, 3), activation, nn.Linear(3, 2)), torch.randn(2, 4))
    assert place(graph, "0.weight") == ("module", "1", 0, operation, exact)
    assert graph.consumers["0.weight"] == (Consumer("2.weight", 1, True),)


@pytest.mark.parametrize(
    ("function", "operation", "exact"),
    [
        (F.relu6, "relu6", True),
        (lambda x: x.clamp(min=0), "clamp", True),
        (lambda x: torch.clamp(x, 0.0, 6.0), "clamp", True),
        (lambda x: x.clamp_(-1, 1), "clamp", False),
        (lambda x: x.clamp_min(0), "clamp_min", True),
        (lambda x: F.leaky_relu(x, 0.0), "leaky_relu", True),
        (lambda x: F.threshold(x, 0, 0), "threshold", True),
        (torch.tanh, "tanh", False),
        (lambda x: x.sigmoid(), "sigmoid", False),
        (F.gelu, "gelu", False),
        (lambda x: F.silu(x, inplace=True), "silu", False),
        (torch.ops.aten.relu, "relu", True),
    ],
)
def test_activation_functions(function, operation, exact):
    net = Net(lambda n, x: n.b(function(n.a(x))), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    graph = graph_of(net, torch.randn(2, 4))
    assert place(graph, "a.weight")[0] == "function"
    assert place(graph, "a.weight")[3:] == (operation, exact)
    assert graph.consumers["a.weight"] == (Consumer("b.weight", 1, True),)


def test_a_residual_block_is_final_after_the_sum():
    def block(n, x):
        out = n.b2(n.c2(n.relu(n.b1(n.c1(x)))))
        out += n.down(x)
        return n.relu(out)

    layers = {name: nn.Conv2d(4, 4, 3, padding=1) for name in ("c1", "c2")}
    net = Net(
        block, **layers, b1=nn.BatchNorm2d(4), b2=nn.BatchNorm2d(4), down=nn.Conv2d(4, 4, 1), relu=nn.ReLU(inplace=True)
    )
    graph = graph_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), net, nn.Conv2d(4, 2, 1)), IMAGE)
    assert place(graph, "2.c1.weight") == ("module", "2.relu", 0, "relu", True)
    assert place(graph, "2.c2.weight")[1:4] == ("2.relu", 1, "relu")
    assert place(graph, "2.down.weight")[1:4] == ("2.relu", 1, "relu")
    assert graph.consumers["2.c1.weight"] == (Consumer("2.c2.weight", 1, False),)  # zero padding
    assert graph.consumers["2.c2.weight"] is None
    assert graph.consumers["2.down.weight"] is None
    assert graph.consumers["0.weight"] == (Consumer("2.c1.weight", 1, False), Consumer("2.down.weight", 1, True))


def test_a_sum_with_several_readers_prefers_norm_and_activation():
    def run(n, x):
        x = x + n.a(x)
        return x + n.c(F.relu(n.b(n.norm(x))))

    net = Net(run, a=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), b=nn.Linear(4, 4), c=nn.Linear(4, 4))
    graph = graph_of(net, torch.randn(3, 4))
    assert place(graph, "a.weight")[:4] == ("module", "norm", 0, "batch_norm")
    assert place(graph, "b.weight")[3] == "relu"
    assert place(graph, "c.weight") == ("module", "c", 0, "none", False)
    assert graph.outputs == ("c.weight",)  # a reaches the output as well, but b reads it


def test_a_transformer_does_not_run_along_the_residual_stream():
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=F.relu, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 8), layer, nn.Linear(8, 2))
    layers = {name: path for name, path in prunable_layers(model).items() if "out_proj" not in name}
    model.eval()
    with torch.no_grad(), Tracer(model, layers) as tracer:
        model(torch.randn(2, 5, 3))
    graph = tracer.graph()
    assert graph.sites["1.linear1.weight"].operation == "relu"
    assert graph.consumers["1.linear1.weight"] == (Consumer("1.linear2.weight", 1, True),)
    assert place(graph, "1.linear2.weight")[:4] == ("module", "1.norm2", 0, "layer_norm")
    assert graph.consumers["1.linear2.weight"] is None  # a layer norm mixes neurons


def test_a_layer_called_twice_has_several_sites():
    def run(n, x):
        return n.out(torch.relu(n.a(torch.relu(n.a(x)))))

    graph = graph_of(Net(run, a=nn.Linear(4, 4), out=nn.Linear(4, 2)), torch.randn(2, 4))
    assert [(site.layer, site.call) for site in graph.every_site()] == [
        ("a.weight", 0),
        ("a.weight", 1),
        ("out.weight", 0),
    ]
    assert graph.consumers["a.weight"] is None


def test_tied_weights_are_one_layer():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    graph = graph_of(net, torch.randn(2, 4))
    assert [(site.layer, site.where) for site in graph.every_site()] == [
        ("0.weight", "1"),
        ("0.weight", "3"),
        ("4.weight", "4"),
    ]
    assert graph.consumers["0.weight"] is None


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class OwnRelu(nn.Module):
    def forward(self, x):
        return F.relu(x)


class CustomFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)


class OwnFunction(nn.Module):
    def forward(self, x):
        return CustomFunction.apply(x)


@pytest.mark.parametrize(("module", "operation"), [(Swish(), "Swish"), (OwnRelu(), "relu"), (OwnFunction(), "clamp")])
def test_activations_of_the_users_own(module, operation):
    graph = graph_of(nn.Sequential(nn.Linear(4, 3), module, nn.Linear(3, 2)), torch.randn(2, 4))
    assert place(graph, "0.weight")[:4] == ("module", "1", 0, operation)


def test_dropout_in_eval_does_not_become_the_site_of_a_functional_relu():
    net = Net(lambda n, x: n.b(n.drop(F.relu(n.a(x)))), a=nn.Linear(4, 3), drop=nn.Dropout(), b=nn.Linear(3, 2))
    for train in (False, True):
        graph = graph_of(net, torch.randn(2, 4), train=train)
        assert place(graph, "a.weight")[:2] == ("function", "torch.nn.functional.relu")
        assert graph.consumers["a.weight"] == (Consumer("b.weight", 1, True),)


def test_the_block_that_ends_in_a_functional_relu_is_a_module_site():
    block = Net(lambda n, x: F.relu(n.a(x)), a=nn.Linear(4, 3))
    graph = graph_of(nn.Sequential(block, nn.Linear(3, 2)), torch.randn(2, 4))
    assert place(graph, "0.a.weight")[:3] == ("module", "0", 0)
