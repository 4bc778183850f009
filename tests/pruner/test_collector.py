"""The Observer: exact counts at the right place, the model left as it was, and errors instead of silence."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune.evidence import Firing, InputMoments, MeanAbs, OutputMoments
from actprune.graph import prunable_layers
from actprune.pruner.collector import Collector
from actprune.state import PruneState
from support.architectures import ConvNet, Functional
from support.nets import tiny_mlp
from support.observation import collector, fired


def test_a_hand_computed_net():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    watch = collector(model)
    with watch.observing():
        model(torch.tensor([[1.0, 1.0], [2.0, 0.0], [-1.0, -3.0]]))
        model(torch.tensor([[5.0, -1.0]]))
    assert fired(watch, "0.weight") == ([3, 2], 4)
    assert watch.flush()["0.weight"]["fired"].dtype == torch.int64
    assert watch.state.positions == {"0.weight": 1, "2.weight": 1}
    assert watch.state.graph.outputs == ("2.weight",)
    assert "2.weight" not in watch.flush()  # an output neuron always fires


@pytest.mark.parametrize("function", [F.relu, torch.relu, lambda x: x.relu_(), lambda x: F.relu(x, inplace=True)])
def test_modules_and_functions_count_the_same(function):
    source, batches = tiny_mlp(), [torch.randn(n, 4) for n in (7, 3, 5)]
    functional = Functional(source, function)
    one, two = collector(source), collector(functional)
    for watch, model in ((one, source), (two, functional)):
        with watch.observing():
            for batch in batches:
                model(batch)
    assert fired(one, "0.weight") == fired(two, "a.weight")
    assert fired(one, "2.weight") == fired(two, "b.weight")
    hidden = source[:2](torch.cat(batches))
    assert fired(one, "0.weight") == ((hidden != 0).sum(0).tolist(), 15)


@pytest.mark.parametrize("inplace", [False, True])
def test_conv_bn_relu_pool_is_counted_after_relu_and_before_pool(inplace):
    model = ConvNet(inplace)
    watch = collector(model, Firing(), MeanAbs(), OutputMoments(), InputMoments())
    images = torch.randn(6, 1, 6, 6)
    with watch.observing():
        model(images[:4])
        model(images[4:])
    model.eval()
    seen = F.relu(model.bn(model.conv(images))).detach()
    assert fired(watch, "conv.weight") == ((seen != 0).sum((0, 2, 3)).tolist(), 6 * 16)
    sums = watch.flush()["conv.weight"]
    assert torch.allclose(sums["out_abs"], seen.double().sum((0, 2, 3)))
    assert torch.allclose(sums["out_square"], seen.double().square().sum((0, 2, 3)))
    assert torch.allclose(sums["in_square"], images.double().square().sum().reshape(1))
    assert sums["in_rows"].item() == 6 * 36
    pooled = F.max_pool2d(seen, 2).flatten(1).double()
    assert torch.allclose(watch.flush()["fc.weight"]["in_sum"], pooled.sum(0))
    assert watch.state.positions == {"conv.weight": 16, "fc.weight": 1}


def test_inputs_are_seen_as_they_were_before_in_place_operations():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            out = self.a(x)
            x.mul_(100)
            return self.b(F.relu(out))

    model, x = Net(), torch.randn(4, 3)
    watch = collector(model, InputMoments())
    expected = x.double().sum(0)
    with watch.observing():
        model(x.clone())
        model(x.clone())
    assert torch.allclose(watch.flush()["a.weight"]["in_sum"], 2 * expected)


def test_a_residual_block_is_counted_after_the_sum():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out, self.relu = (
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 2),
                nn.ReLU(inplace=True),
            )

        def forward(self, x):
            h = self.b(self.relu(self.a(x)))
            h += x
            return self.out(self.relu(h))

    model, x = Block(), torch.randn(9, 4)
    watch = collector(model)
    with watch.observing():
        model(x[:5])
        model(x[5:])
    first = F.relu(model.a(x))
    assert fired(watch, "a.weight") == ((first != 0).sum(0).tolist(), 9)
    assert fired(watch, "b.weight") == ((F.relu(model.b(first) + x) != 0).sum(0).tolist(), 9)


def test_token_axes_and_unbatched_convs():
    model = tiny_mlp()
    watch = collector(model)
    tokens = torch.randn(2, 3, 7, 4)
    with watch.observing():
        model(tokens)
    assert fired(watch, "0.weight") == ((model[:2](tokens) != 0).sum((0, 1, 2)).tolist(), 42)
    assert watch.state.positions["0.weight"] == 21
    conv = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Conv1d(3, 1, 1))
    watch, signal = collector(conv), torch.randn(2, 9)
    with watch.observing():
        conv(signal)
        conv(signal)
    assert fired(watch, "0.weight") == ((2 * (conv[:2](signal) != 0).sum(1)).tolist(), 16)
    assert watch.state.positions["0.weight"] == 8
    assert watch.state.example is None or watch.state.example[0][0].shape == (2, 9)


def test_flattened_tokens_still_have_their_positions():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(F.relu(self.a(x.reshape(-1, 4))))

    model = Flat()
    watch = collector(model)
    with watch.observing():
        model(torch.randn(5, 6, 4))
    assert watch.state.positions == {"a.weight": 6, "b.weight": 6}


def test_shared_modules_and_tied_weights_count_every_call():
    layer = nn.Linear(4, 4)
    twice = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2))
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    tied[0].weight, tied[2].weight = layer.weight, layer.weight
    tied[0].bias, tied[2].bias = layer.bias, layer.bias
    x = torch.randn(6, 4)
    first = F.relu(layer(x))
    expected = ((first != 0).sum(0) + (F.relu(layer(first)) != 0).sum(0)).tolist()
    for model in (twice, tied):
        watch = collector(model)
        with watch.observing():
            model(x[:2])
            model(x[2:])
        assert fired(watch, "0.weight") == (expected, 12)


def test_a_transformer_layer_does_not_slip_past_the_hooks():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    watch = collector(layer, skip=["self_attn.*", "linear2"])
    with watch.observing():
        for _ in range(2):
            layer(torch.randn(3, 5, 8))
    assert watch.flush()["linear1.weight"]["rows"].item() == 30
    assert 0 < watch.flush()["linear1.weight"]["fired"].sum() < 30 * 16


def test_models_that_take_different_paths():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.out(F.relu(self.a(x) if x[0, 0] > 0 else self.b(x)))

    model = Routed()
    plus, minus = torch.rand(4, 4), -torch.rand(3, 4)
    watch = collector(model)
    with watch.observing():
        model(plus)
        model(minus)
    assert fired(watch, "a.weight") == ((F.relu(model.a(plus)) != 0).sum(0).tolist(), 4)
    assert fired(watch, "b.weight") == ((F.relu(model.b(minus)) != 0).sum(0).tolist(), 3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=4), st.integers(0, 1000), st.booleans())
def test_splitting_batches_does_not_change_the_counts(cuts, seed, functional):
    model = Functional(tiny_mlp()) if functional else tiny_mlp()
    first = "a.weight" if functional else "0.weight"
    data = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
    bounds = sorted({0, 12, *cuts})
    whole, parts, blocks = collector(model), collector(model), collector(model)
    with whole.observing():
        model(data)
    with parts.observing():
        for start, stop in itertools.pairwise(bounds):
            model(data[start:stop])
    for start, stop in itertools.pairwise(bounds):
        with blocks.observing():
            model(data[start:stop])
    assert fired(whole, first) == fired(parts, first) == fired(blocks, first)


def test_the_example_is_the_first_two_examples():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x, *, more, scale=1.0, table=None):
            return self.b(F.relu(self.a(x + more["y"]))) * scale

    model, x, y = Named(), torch.randn(5, 4), torch.randn(5, 4)
    watch = collector(model)
    with watch.observing():
        model(x, more={"y": y}, scale=2.0)
        model(y, more={"y": x})
    args, kwargs = watch.state.example
    assert torch.equal(args[0], x[:2])
    assert torch.equal(kwargs["more"]["y"], y[:2])
    assert kwargs["scale"] == 2.0
    assert args[0].untyped_storage().nbytes() == 2 * 4 * 4
    watch = collector(model)
    with watch.observing():
        model(x, more={"y": y}, table=torch.zeros(7, 7))
    assert watch.state.example is None


def test_without_statistics_only_the_structure_is_seen():
    model = ConvNet()
    watch = Collector(model, prunable_layers(model), [], PruneState())
    with watch.observing():
        model(torch.randn(2, 1, 6, 6))
    assert watch.flush() == {}
    assert list(watch.state.graph.sites) == ["conv.weight", "fc.weight"]
    assert watch.state.positions["conv.weight"] == 16
