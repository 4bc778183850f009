"""Where activations are final and who reads them, on nets whose answer is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.graph import Consumer, Graph, Tracer, prunable_layers


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


@pytest.mark.parametrize(
    "read",
    [
        lambda n, h: torch.cat([n.b(h), h], 1),
        lambda n, h: n.b(h) + h[:, :2],
        lambda n, h: n.b(h) * h.mean(),
        lambda n, h: (n.b(h), h),  # also a model output
        lambda n, h: {"out": n.b(h), "hidden": [h]},
        lambda n, h: n.b(h @ torch.eye(3)),
        lambda n, h: n.b(h.t().t()),
        lambda n, h: n.b(h + 1),
        lambda n, h: n.b(h) if h.sum() > -1 else None,  # somebody looks at the numbers
        lambda n, h: n.b(n.b(h).repeat(1, 2)[:, :3]),  # b is called twice
        lambda n, h: n.b(h.repeat(1, 1)),
    ],
)
def test_readers_that_are_not_understood(read):
    net = Net(lambda n, x: read(n, torch.relu(n.a(x))), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    graph = graph_of(net, torch.randn(2, 4))
    assert place(graph, "a.weight")[3] == "relu"
    assert graph.consumers["a.weight"] is None


def test_a_branch_before_the_activation_is_not_understood():
    net = Net(lambda n, x: n.b(torch.relu(h := n.a(x))) + h[:, :2], a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    assert graph_of(net, torch.randn(2, 4)).consumers["a.weight"] is None


def test_something_read_where_nobody_can_watch_is_not_understood():
    def run(n, x, hidden):
        h = torch.relu(n.a(x))
        out = n.b(h)
        if hidden:
            with torch._C.DisableTorchFunction():  # what an extension written in C++ looks like from here
                secret = h * 2
            out = out + secret[:, :2]
        return out

    net = Net(run, a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    assert graph_of(net, torch.randn(2, 4), False).consumers["a.weight"] == (Consumer("b.weight", 1, True),)
    assert graph_of(net, torch.randn(2, 4), True).consumers["a.weight"] is None


@pytest.mark.parametrize(
    ("between", "inputs", "repeat"),
    [
        (lambda x: x.flatten(1), 4 * 25, 25),
        (lambda x: x.view(x.size(0), -1), 4 * 25, 25),
        (lambda x: F.adaptive_avg_pool2d(x, 1).reshape(-1, 4), 4, 1),
        (lambda x: x.mean((2, 3)), 4, 1),
        (lambda x: F.avg_pool2d(x, 5).squeeze(), 4, 1),
        (lambda x: F.avg_pool2d(x, 3, padding=1, count_include_pad=False).flatten(1), 16, 4),
        (lambda x: F.dropout2d(F.max_pool2d(x, 2)).contiguous().flatten(1), 16, 4),
        (lambda x: F.avg_pool2d(x, 3, padding=1).flatten(1), 16, None),  # averages zeros in
        (lambda x: F.pad(x, (1, 1)).flatten(1), 4 * 35, None),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), 4 * 25, None),  # not channel-major
        (lambda x: x.mean(1).flatten(1), 25, None),
        (lambda x: F.max_pool2d(x, 5, return_indices=True)[0].flatten(1), 4, None),
    ],
)
def test_from_conv_to_linear(between, inputs, repeat):
    net = Net(lambda n, x: n.b(between(torch.relu(n.a(x)))), a=nn.Conv2d(1, 4, 8), b=nn.Linear(inputs, 2))
    graph = graph_of(net, IMAGE)
    assert graph.consumers["a.weight"] == (None if repeat is None else (Consumer("b.weight", repeat, True),))


def test_token_axes():
    shapes = [lambda x: x, lambda x: x.reshape(-1, 3), lambda x: x.view(2, 1, 5, 3)]
    for reshape in shapes:
        net = Net(lambda n, x, r=reshape: n.b(r(torch.relu(n.a(x)))), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
        assert graph_of(net, torch.randn(2, 5, 4)).consumers["a.weight"] == (Consumer("b.weight", 1, True),)
    net = Net(lambda n, x: n.b(torch.relu(n.a(x)).flatten(1)), a=nn.Linear(4, 3), b=nn.Linear(15, 2))
    assert graph_of(net, torch.randn(2, 5, 4)).consumers["a.weight"] is None  # token-major


@pytest.mark.parametrize(
    ("reader", "foldable"),
    [
        (nn.Conv2d(4, 4, 3), True),
        (nn.Conv2d(4, 4, 3, padding=1), False),
        (nn.Conv2d(4, 4, 3, padding="same"), False),
        (nn.Conv2d(4, 4, 3, padding="valid"), True),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), True),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.Conv2d(4, 4, 3, bias=False), False),
    ],
    ids=str,
)
def test_foldable(reader, foldable):
    graph = graph_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), reader), IMAGE)
    assert graph.consumers["0.weight"] == (Consumer("2.weight", 1, foldable),)


def test_conv1d_and_unbatched_inputs():
    conv = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(3, 2, 2))
    batched, alone = graph_of(conv, torch.randn(4, 2, 9)), graph_of(conv, torch.randn(2, 9))
    assert (batched.sites["0.weight"].axis, alone.sites["0.weight"].axis) == (1, 0)
    assert batched.consumers == alone.consumers == {"0.weight": (Consumer("3.weight", 1, True),), "3.weight": None}


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
