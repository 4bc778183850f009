"""``without_dead``: a fixed point on masks, checked by hand and by properties."""

import itertools

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune.graph import Tracer, dead_neurons, prunable_layers, without_dead
from actprune.nodes import Consumer, Graph


def chain(*names, foldable=True, repeat=1):
    consumers = {a: (Consumer(b, repeat, foldable),) for a, b in itertools.pairwise(names)}
    return Graph({}, {**consumers, names[-1]: None}, (names[-1],))


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_dead_neurons():
    assert dead_neurons(mask([0, 1], [0, 0])).tolist() == [False, True]
    assert dead_neurons(torch.zeros(3, 2, 5, 5, dtype=torch.bool)).tolist() == [True] * 3


def test_forwards_through_two_layers():
    masks = {"a": mask([0, 0], [1, 1]), "b": mask([1, 0], [0, 1]), "c": mask([1, 1])}
    found = without_dead(chain("a", "b", "c"), masks)
    assert found["a"].tolist() == [[False, False], [True, True]]
    assert found["b"].tolist() == [[False, False], [False, True]]  # b's neuron 0 had only the dead input
    assert found["c"].tolist() == [[False, True]]
    assert masks["b"].tolist() == [[True, False], [False, True]]


def test_backwards_through_two_layers():
    masks = {"a": mask([1, 1], [1, 1]), "b": mask([1, 0], [1, 1]), "c": mask([1, 0])}
    found = without_dead(chain("a", "b", "c"), masks)
    assert found["b"].tolist() == [[True, False], [False, False]]
    assert found["a"].tolist() == [[True, True], [False, False]]  # its neuron 1 was read by b's neuron 1 alone


def test_what_cannot_be_folded_stays_but_unread_neurons_go():
    graph = chain("a", "b", foldable=False)
    dead = {"a": mask([0], [1]), "b": mask([1, 1])}
    assert without_dead(graph, dead)["b"].all()
    unread = {"a": mask([1], [1]), "b": mask([0, 1])}
    assert without_dead(graph, unread)["a"].tolist() == [[False], [True]]


def test_readers_that_are_unknown_or_without_mask():
    dead, ones = mask([0, 0], [1, 1]), torch.ones(2, 2, dtype=torch.bool)
    assert without_dead(Graph({}, {"a": None, "b": None}, ()), {"a": dead, "b": ones})["b"].all()
    two = Graph({}, {"a": (Consumer("b", 1, True), Consumer("free", 1, True))}, ())
    found = without_dead(two, {"a": dead, "b": ones})
    assert found["b"].tolist() == [[False, True]] * 2  # the reader with a mask is cut
    assert without_dead(two, {"a": ones, "b": torch.zeros(2, 2, dtype=torch.bool)})["a"].all()  # "free" still reads


def test_conv_to_linear_repeats():
    conv = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    conv[0] = False
    found = without_dead(chain("a", "b", repeat=3), {"a": conv, "b": torch.ones(1, 6, dtype=torch.bool)})
    assert found["b"].tolist() == [[False] * 3 + [True] * 3]
    read = mask([0, 0, 0, 0, 1, 0])
    conv = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    assert dead_neurons(without_dead(chain("a", "b", repeat=3), {"a": conv, "b": read})["a"]).tolist() == [
        True,
        False,
    ]


def test_grouped_readers():
    reader = torch.ones(
        4, 2, 1, 1, dtype=torch.bool
    )  # 2 groups: outputs 0, 1 read channels 0, 1; outputs 2, 3 read 2, 3
    reader[2:, 0] = False
    graph = chain("a", "b", foldable=False)
    found = without_dead(graph, {"a": torch.ones(4, 5, dtype=torch.bool), "b": reader})
    assert dead_neurons(found["a"]).tolist() == [False, False, True, False]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.6), st.lists(st.integers(1, 6), min_size=3, max_size=5))
def test_fixed_point_properties(seed, density, sizes):
    generator = torch.Generator().manual_seed(seed)
    names = [f"l{index}" for index in range(len(sizes) - 1)]
    shapes = list(zip(sizes[1:], sizes, strict=False))
    masks = {n: torch.rand(s, generator=generator) < density for n, s in zip(names, shapes, strict=True)}
    graph = chain(*names)
    found = without_dead(graph, masks)
    assert all(bool((found[name] <= masks[name]).all()) for name in names)
    again = without_dead(graph, found)
    assert all(torch.equal(found[name], again[name]) for name in names)
    for a, b in itertools.pairwise(names):
        assert torch.equal(found[a].any(1) & found[b].any(0), found[a].any(1) | found[b].any(0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.5))
def test_without_biases_a_relu_net_computes_the_same(seed, density):
    """No bias: dead neurons send 0, so removing dead weights may not change one output."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(3, 5)
    with torch.no_grad(), Tracer(net, prunable_layers(net)) as tracer:
        net(x)
        for layer in net[::2]:
            layer.bias.zero_()
    masks = {name: torch.rand_like(net.get_parameter(name)) < density for name in tracer.layers}
    found = without_dead(tracer.graph(), masks)

    def outputs(masks):
        weights = {name: net.get_parameter(name) * kept for name, kept in masks.items()}
        return torch.func.functional_call(net, weights, x)

    assert torch.allclose(outputs(masks), outputs(found), atol=1e-6)
    assert F.mse_loss(outputs(masks), outputs(found)) < 1e-10
