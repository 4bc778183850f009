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


class OwnNorm(nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(wide))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class LayerScale(OwnNorm):
    def forward(self, x):
        return x * self.weight


class ReshapedScale(OwnNorm):
    def forward(self, x):
        return x.mul(self.weight.reshape(1, -1) * 2)


class RmsKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x.square().mean(-1, keepdim=True).rsqrt()


class FusedRmsNorm(nn.Module):
    def forward(self, x):
        return RmsKernel.apply(x)


@pytest.mark.parametrize(
    "norm", [OwnNorm(4), LayerScale(4), ReshapedScale(4), FusedRmsNorm(), nn.LayerNorm(4), nn.RMSNorm(4)], ids=str
)
def test_a_norm_or_a_scale_of_the_users_own_is_no_activation(norm):
    net = Net(lambda n, x: n.b(n.norm(x + n.a(x))), a=nn.Linear(4, 4), norm=norm, b=nn.Linear(4, 2))
    site = graph_of(net, torch.randn(2, 4)).sites["a.weight"]
    assert (site.where, site.known, site.smooth, site.exact_zero) == ("norm", True, False, False)


OWN = [OwnNorm(4), LayerScale(4), ReshapedScale(4), nn.LayerNorm(4)]


@pytest.mark.parametrize("norm", OWN, ids=str)
def test_a_non_linearity_behind_a_norm_of_the_users_own_is_the_site(norm):
    net = Net(lambda n, x: n.b(F.relu(n.norm(n.a(x)))), a=nn.Linear(4, 4), norm=norm, b=nn.Linear(4, 2))
    assert place(graph_of(net, torch.randn(2, 4)), "a.weight")[3:] == ("relu", True)


WAYS = {
    "pool": (lambda n, x: F.relu(F.max_pool2d(n.a(x), 2)), 1),
    "pool and norm": (lambda n, x: n.norm(F.avg_pool2d(n.a(x), 2)).relu(), 1),
    "permute": (lambda n, x: F.relu(n.a(x).permute(0, 2, 3, 1)), -1),
    "there and back": (lambda n, x: F.relu(n.a(x).permute(0, 2, 3, 1).transpose(1, 3)), 1),
    "scale": (lambda n, x: F.relu(n.a(x) * n.scale), 1),
    "divided": (lambda n, x: F.relu(n.a(x) / n.scale), 1),
    "shift": (lambda n, x: F.relu(n.a(x) + n.scale), 1),
    "mask": (lambda n, x: F.relu(n.a(x) * (x[:, :1] > 0)), 1),
    "filled": (lambda n, x: F.relu(n.a(x).masked_fill(x[:, :1] > 0, 0.0)), 1),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_non_linearity_is_found_behind_what_keeps_neurons_apart(name):
    way, axis = WAYS[name]
    net = Net(lambda n, x: n.b(way(n, x).flatten(1)), a=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), b=nn.LazyLinear(2))
    net.scale = nn.Parameter(torch.full((4, 1, 1), 2.0))
    x = torch.randn(2, 3, 6, 6)
    net(x)
    site = graph_of(net, x).sites["a.weight"]
    assert (site.operation, site.exact_zero, site.parts) == ("relu", True, 1)
    assert site.axis == axis


@pytest.mark.parametrize(
    ("function", "operation", "known"),
    [
        (torch.sin, "sin", True),
        (lambda x: x**2, "pow", True),
        (torch.exp, "exp", True),
        (torch.abs, "abs", True),
        (lambda x: torch.where(x > 0, x, 0.0), "where", False),
        (lambda x: torch.maximum(x, torch.zeros_like(x)), "maximum", False),
        (torch.round, "round", False),
    ],
)
def test_functions_that_are_non_linear_where_nothing_else_follows(function, operation, known):
    net = Net(lambda n, x: n.b(function(n.a(x))), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    site = graph_of(net, torch.randn(2, 4)).sites["a.weight"]
    assert (site.operation, site.known, site.smooth, site.exact_zero) == (operation, known, True, False)


def test_a_square_inside_a_penalty_is_no_activation():
    def run(n, x):
        n.penalty = (hidden := n.a(x)).pow(2).mean()
        return n.b(hidden)

    net = Net(run, a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    assert place(graph_of(net, torch.randn(2, 4)), "a.weight")[3] == "none"


@pytest.mark.parametrize(
    "scale",
    [
        lambda n, x: x[:, :1],
        lambda n, x: torch.sigmoid(x[:, :1]),
        lambda n, x: n.own.reshape(1, -1),
        lambda n, x: torch.sigmoid(n.own),
        lambda n, x: torch.cos(torch.arange(3.0)),
    ],
)
def test_what_multiplies_all_neurons_or_all_examples_alike_is_no_gate(scale):
    net = Net(lambda n, x: n.b(n.a(x) * scale(n, x)), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    net.own = nn.Parameter(torch.ones(3))
    site = graph_of(net, torch.randn(2, 4)).sites["a.weight"]
    assert (site.operation, site.smooth) == ("none", False)


class Halves(nn.Module):
    """A GLU's activation as a module of its own."""

    def forward(self, x):
        a, b = x.chunk(2, -1)
        return F.silu(a) * b


def gated(gate, parts):
    a, b = parts
    return gate(a) * (b + 1)


GLUS = {
    "glu": lambda n, x: F.glu(x),
    "module": lambda n, x: n.glu(x),
    "own module": lambda n, x: n.own(x),
    "chunk": lambda n, x: gated(F.silu, x.chunk(2, -1)),
    "second gates": lambda n, x: gated(torch.sigmoid, reversed(x.chunk(2, -1))),
    "split": lambda n, x: gated(F.gelu, x.split([3, 3], dim=-1)),
    "split by size": lambda n, x: gated(F.gelu, torch.split(x, 3, -1)),
    "slices": lambda n, x: x[..., 3:] * F.relu(x[..., :3]),
    "narrow": lambda n, x: x.narrow(-1, 0, 3) * torch.tanh(x.narrow(-1, 3, 3)),
    "scaled": lambda n, x: gated(lambda a: F.silu(a * n.scale), x.chunk(2, -1)),
    "dropped": lambda n, x: gated(F.silu, F.dropout(x, 0.1, n.training).chunk(2, -1)),
}


def glu_net(way):
    net = Net(lambda n, x: n.b(way(n, n.a(x))), a=nn.Linear(4, 6), b=nn.Linear(3, 2), glu=nn.GLU(), own=Halves())
    net.scale = nn.Parameter(torch.ones(1))
    return net


@pytest.mark.parametrize("name", GLUS)
def test_the_halves_of_one_layer_meet_in_a_product(name):
    graph = graph_of(glu_net(GLUS[name]), torch.randn(2, 4))
    site = graph.sites["a.weight"]
    assert (site.parts, site.smooth, site.axis) == (2, True, -1)
    assert site.operation == ("glu" if name in ("glu", "module") else "mul")
    assert site.exact_zero == (name == "slices")
    assert graph.consumers["a.weight"] is None


def test_the_channels_of_a_gated_convolution_have_halves():
    net = Net(lambda n, x: n.b(F.glu(n.a(x), 1)), a=nn.Conv1d(3, 8, 1), b=nn.Conv1d(4, 2, 1))
    site = graph_of(net, torch.randn(2, 3, 5)).sites["a.weight"]
    assert (site.parts, site.axis, site.operation) == (2, 1, "glu")


@pytest.mark.parametrize(
    "way",
    [
        lambda n, x: F.silu(x[..., :3]) * x[..., :3],  # one half twice
        lambda n, x: sum(n.b(part) for part in x.chunk(2, -1)),  # they do not meet
        lambda n, x: n.b(F.silu(x[..., ::2]) * x[..., 1::2]),  # not one behind the other
        lambda n, x: gated(F.silu, x.chunk(2, 0)),  # halves of the batch
    ],
)
def test_what_are_no_halves_that_meet_is_final_in_the_layer_itself(way):
    net = Net(lambda n, x: way(n, n.a(x)), a=nn.Linear(4, 6), b=nn.Linear(3, 2))
    site = graph_of(net, torch.randn(2, 4)).sites["a.weight"]
    assert (site.where, site.operation, site.parts, site.smooth) == ("a", "none", 1, False)


def test_queries_keys_and_values_of_one_layer_are_no_gates():
    def run(n, x):
        q, k, v = n.a(x).chunk(3, -1)
        return n.b(F.scaled_dot_product_attention(q, k, v))

    net = Net(run, a=nn.Linear(4, 12), b=nn.Linear(4, 2))
    assert graph_of(net, torch.randn(2, 5, 4)).sites["a.weight"].smooth is False
