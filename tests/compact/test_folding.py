"""What a dead unit still sends moves into the next biases: numbers worked out by hand, and where it cannot be done."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.compact import compaction
from support.compaction import assert_same, masked_copy, random_masks, shapes
from support.nets import NETS, Net, mlp


def fill(layer, weight, bias=None):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float32).view_as(layer.weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float32))
    return layer


def compacted(model, masks, net, **options):
    result = compaction(model, masks, example=net.inputs(), **options)
    assert_same(masked_copy(model, masks), result.model, net)
    return result


def kept(result, layer):
    return next(one.kept for one in result.report.layers if one.name == layer)


def test_relu_of_the_bias_moves_into_the_next_bias():
    model = mlp(2, 3, 2)
    fill(model.fc1, [[1, 2], [0, 0], [0, 0]], [1, 2, -3])
    fill(model.fc2, [[1, 10, 100], [2, 20, 200]], [0.5, -0.5])
    small = compacted(model, {}, Net(None, ((2,),))).model
    assert small.fc1.weight.tolist() == [[1, 2]]
    assert small.fc2.weight.tolist() == [[1], [2]]
    assert small.fc2.bias.tolist() == [20.5, 39.5]  # relu(2) * 10, relu(2) * 20; relu(-3) sends nothing


def test_through_batchnorm():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, eps=0.0), nn.ReLU(), nn.Linear(2, 1)).eval()
    fill(model[0], [[1, 1], [0, 0]], [0, 5])
    fill(model[1], [1, 2], [0, 0.5])
    model[1].running_mean.copy_(torch.tensor([0.0, 1.0]))
    model[1].running_var.copy_(torch.tensor([1.0, 4.0]))
    fill(model[3], [[1, 3]], [0.25])
    small = compacted(model, {}, Net(None, ((2,),))).model
    assert small[3].bias.tolist() == [0.25 + 3 * ((5 - 1) / 2 * 2 + 0.5)]
    assert small[1].num_features == 1
    assert small[1].running_var.tolist() == [1.0]


class Convs(nn.Module):
    def __init__(self, padding, pool):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 2, padding=padding)
        self.pool = pool
        fill(self.conv1, [[1] * 9, [0] * 9], [0, 2])
        fill(self.conv2, [[1, 1, 1, 1, 1, 2, 3, 4]], [7])

    def forward(self, x):
        return self.conv2(self.pool(F.relu(self.conv1(x)))).mean((2, 3))


IMAGE = Net(None, ((1, 8, 8),))


POOLS = [nn.Identity(), nn.AvgPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(4), nn.Upsample(scale_factor=2),
         nn.AvgPool2d(3, 1, 1, count_include_pad=False)]  # fmt: skip


@pytest.mark.parametrize("pool", POOLS)
def test_through_pooling_and_a_convolution(pool):
    small = compacted(Convs(0, pool), {}, IMAGE).model
    assert shapes(small)["conv1.weight"] == (1, 1, 3, 3)
    assert small.conv2.bias.tolist() == [7 + 2 * (1 + 2 + 3 + 4)]


@pytest.mark.parametrize(
    ("padding", "pool", "why"),
    [
        (1, nn.Identity(), "a constant through zero padding"),
        ("same", nn.Identity(), "not the same at every position"),
        (0, nn.AvgPool2d(3, 1, 1), "not the same at every position"),
        (0, nn.ZeroPad2d(1), "not the same at every position"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_padding_keeps_the_channel_and_the_report_says_so(padding, pool, why):
    model = Convs(padding, pool)
    result = compacted(model, {}, IMAGE)
    assert shapes(result.model) == shapes(model)
    ((reason, number),) = kept(result, "conv1").items()
    assert (why in reason, number) == (True, 1)
    assert f"conv1: 1 dead units stay, because {reason}" in str(result.report)


def test_padding_does_not_matter_for_a_constant_of_zero():
    model = Convs(1, nn.Identity())
    model.conv1.bias.data[1] = -2
    assert shapes(compacted(model, {}, IMAGE).model)["conv1.weight"] == (1, 1, 3, 3)


def test_a_bias_is_made_where_there_is_none():
    model = mlp(2, 2, 1)
    fill(model.fc1, [[1, 2], [0, 0]], [1, 2])
    model.fc2 = fill(nn.Linear(2, 1, bias=False), [[1, 10]])
    for form in ("module", "graph"):
        small = compacted(model, {}, Net(None, ((2,),)), form=form).model
        assert small.state_dict()["fc2.bias"].tolist() == [20]
        assert small.get_parameter("fc2.bias").requires_grad
    assert model.fc2.bias is None


def test_what_one_removal_frees_the_next_one_takes():
    """The only neuron of fc1 that one of fc2 reads is dead, so that one is constant, and so on; and back from fc3."""
    model = mlp(2, 2, 3, 2, 2)
    fill(model.fc1, [[0, 0], [1, 1]], [3, 0])
    fill(model.fc2, [[1, 0], [0, 1], [0, 1]], [0, 0, 0])  # neuron 0 sees the constant alone
    fill(model.fc3, [[2, 0, 0], [0, 1, 0]], [0, 0])  # neuron 0 sees only that; nobody reads neuron 2 of fc2
    fill(model.fc4, [[1, 0], [1, 1]], [0, 0])
    result = compacted(model, {}, Net(None, ((2,),)))
    found = {name: shape for name, shape in shapes(result.model).items() if name.endswith("weight")}
    assert list(found.values()) == [(1, 2), (1, 1), (1, 1), (2, 1)]
    assert result.model.fc4.bias.tolist() == [6, 6]


@pytest.mark.parametrize("name", ["article", "lenet-5", "mobilenet", "transformer", "shared"])
def test_a_network_that_ignores_its_input_keeps_one_unit_per_layer(name):
    model = NETS[name].make()
    masks = random_masks(model, 2.0, "rows")  # all rows but those of the output layer
    for form in ("module", "graph"):
        small = compacted(model, masks, NETS[name], form=form).model
        assert all(min(shape) >= 1 for shape in shapes(small).values())
    if name in ("article", "lenet-5", "shared"):
        assert all(shape[0] == 1 for key, shape in list(shapes(small).items())[:-2])


def test_two_uses_of_one_weight_are_sent_different_constants():
    class Twice(nn.Module):
        def __init__(self, same):
            super().__init__()
            self.left, self.right, self.both = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
            for layer in (self.left, self.right):
                with torch.no_grad():
                    layer.weight[0], layer.bias[0] = 0, 2 if same or layer is self.left else 3

        def forward(self, x):
            return self.both(F.relu(self.left(x))) - 2 * self.both(F.relu(self.right(x)))

    net = Net(None, ((3,),))
    assert shapes(compacted(Twice(same=True), {}, net).model)["both.weight"] == (2, 3)
    result = compacted(Twice(same=False), {}, net)
    assert shapes(result.model)["both.weight"] == (2, 4)
    assert "the bias of its reader cannot take its constant" in kept(result, "left")


def test_what_depends_on_the_input_is_never_taken_for_constant():
    """Silent on the example and everywhere near it, but not dead: the data decide nothing."""
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model.fc1.bias.fill_(-100)
    assert shapes(compacted(model, {}, Net(None, ((4,),))).model) == shapes(model)


def test_a_scalar_of_the_input_makes_a_constant_vary():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 3), nn.Linear(3, 2)
            with torch.no_grad():
                self.fc1.weight[0], self.fc1.bias[0] = 0, 1

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(x)) * x.abs().mean().exp())

    assert shapes(compacted(Scaled(), {}, Net(None, ((4,),))).model)["fc2.weight"] == (2, 3)
