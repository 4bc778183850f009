"""Who reads a layer's neurons, on nets whose answer is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.nodes import Consumer
from support.graphs import IMAGE, Net, graph_of, place


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
