"""Compaction refuses what it cannot do, in words, and changes nothing then."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.compact import compact, compaction
from actprune.compact import cut as cutting
from actprune.errors import CompactionError, ModelError
from support.compaction import assert_same, dead_rows, masked_copy, shapes
from support.nets import Net, mlp

SMALL = Net(lambda: mlp(6, 5, 4, 3), ((6,),))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"fc1.weight": torch.ones(6, 5, dtype=torch.bool)}, r"mask fc1.weight is \(6, 5\); the model has \(5, 6\)"),
        ({"fc9.weight": torch.ones(5, 6, dtype=torch.bool)}, "the model has no such weight"),
    ],
)
def test_masks_that_do_not_fit(masks, message):
    with pytest.raises(CompactionError, match=message):
        compact(SMALL.make(), masks, example=SMALL.inputs())


def test_masks_of_numbers_are_taken_and_those_of_unused_layers_ignored():
    model = SMALL.make()
    model.fc1.spare = nn.Linear(3, 3)
    masks = {
        name: mask.float() for name, mask in dead_rows(model, {"fc1.weight": [0], "fc1.spare.weight": [1]}).items()
    }
    assert shapes(compact(model, masks, example=SMALL.inputs()))["fc1.weight"] == (4, 6)


def test_no_example():
    with pytest.raises(CompactionError, match="follows one input through the model, and none is known; give example="):
        compact(SMALL.make())


@pytest.mark.parametrize("options", [{"form": "modul"}, {"round_to": 0}, {"round_to": 2.5}, {"round_to": "8"}])
def test_senseless_options(options):
    with pytest.raises(CompactionError, match="round_to >= 1"):
        compact(SMALL.make(), example=SMALL.inputs(), **options)


def test_arguments_of_the_wrong_kind():
    with pytest.raises(CompactionError, match="takes a model"):
        compact("net.pt", example=SMALL.inputs())
    with pytest.raises(CompactionError, match=r"state is a Net; give pruner\.state"):
        compact(SMALL.make(), SMALL, example=SMALL.inputs())


@pytest.mark.parametrize(
    ("example", "message"),
    [(torch.zeros(4, 7), r"fails on the example itself, of shape \(4, 7\)"), (torch.zeros(0, 6), "example is empty")],
)
def test_an_example_that_does_not_fit_is_what_is_blamed(example, message):
    with pytest.raises(ModelError, match=message):
        compact(SMALL.make(), example=example)


def test_a_graph_cannot_take_the_place_of_a_class():
    model = SMALL.make()
    with pytest.raises(CompactionError, match="keeps your own class; it cannot be used with form='graph'"):
        compact(model, example=SMALL.inputs(), form="graph", inplace=True)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_optimizer_of_another_model(inplace):
    model, other = SMALL.make(), SMALL.make()
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    before = shapes(model)
    masks = dead_rows(model, {"fc1.weight": [0]})
    with pytest.raises(CompactionError, match=r"a parameter of shape \(5, 6\) that is not the model's"):
        compact(model, masks, example=SMALL.inputs(), optimizer=optimizer, inplace=inplace)
    assert shapes(model) == before
    assert optimizer.param_groups[0]["params"][0] is other.fc1.weight


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else self.fc(-x)


class Unusual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return torch.linalg.svdvals(self.fc(x))


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Branching(), torch.randn(3, 6), "Branching cannot be turned into a graph: .*control flow depends on values"),
        (Unusual(), torch.randn(3, 6), "the model calls linalg_svdvals.*which a program may not contain"),
        (mlp(6, 3), "text", "an example is a tensor or a tuple of positional arguments; got a str"),
        (mlp(6, 3), (torch.randn(3, 6), 2), "Sequential fails on the example itself, of shape .*TypeError"),
        (mlp(6, 3), torch.randn(3, 7), "Sequential fails on the example itself, of shape .*RuntimeError"),
    ],
)
def test_models_that_are_no_graph(model, example, message):
    model.train()
    with pytest.raises(ModelError, match=message):
        compact(model, example=example, form="graph")
    assert model.training


@pytest.mark.parametrize("kind", [Branching, Unusual])
def test_models_that_are_no_graph_are_compacted_in_their_own_class(kind):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), kind()).eval()
    masks = dead_rows(model, {"0.weight": [1, 5]})
    x = torch.randn(3, 6)
    small = compact(model, masks, example=x)
    assert shapes(small)["0.weight"] == (6, 6)
    torch.testing.assert_close(small(x), masked_copy(model, masks)(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    model = SMALL.make()
    model.fc2.weight.data[1, 2] = value
    with pytest.raises(ModelError, match=r"fc2\.weight has 1 values that are NaN or infinite"):
        compact(model, example=SMALL.inputs())
    masks = {"fc2.weight": torch.ones(4, 5, dtype=torch.bool)}
    masks["fc2.weight"][1, 2] = False  # what is masked does not matter
    compact(model, masks, example=SMALL.inputs())


def test_activations_that_are_not_finite():
    model = SMALL.make()
    with pytest.raises(CompactionError, match="the masked model itself returns NaN on the example"):
        compact(model, example=SMALL.inputs()[0] * float("inf"))


def test_infinite_outputs_are_compared_too():
    class Masked(nn.Module):
        """Forbids some classes, as language models do, and has a causal mask of minus infinities."""

        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 4)
            self.register_buffer("mask", torch.tensor([0, float("-inf"), 0, 0]))

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(x))) + self.mask

    model = Masked()
    small = compact(model, dead_rows(model, {"fc1.weight": [0, 1]}), example=torch.randn(3, 6))
    assert shapes(small)["fc1.weight"] == (6, 6)
    assert small(torch.randn(2, 6))[:, 1].tolist() == [float("-inf")] * 2


def test_logarithms_of_noise_do_not_matter():
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(torch.log(x))))

    model = Log()
    small = compact(model, dead_rows(model, {"fc1.weight": [0]}), example=torch.rand(3, 6))
    assert shapes(small)["fc1.weight"] == (7, 6)


@pytest.mark.parametrize(("wrong", "named"), [("fc1.bias", "fc1"), ("fc2.weight", "fc2"), ("fc3.bias", "fc3")])
@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_wrong_cut_is_found_and_the_first_layer_named(monkeypatch, wrong, named, form):
    real = cutting.small_tensors

    def spoiled(plan, like):
        tensors = real(plan, like)
        with torch.no_grad():
            tensors[wrong][..., 0] += 1
        return tensors

    module = __import__(compaction.__module__, fromlist=["small_tensors"])
    monkeypatch.setattr(module, "small_tensors", spoiled)
    model = SMALL.make()
    model.fc1.weight.data.abs_()
    model.fc1.bias.data[1] = 5.0
    masks = dead_rows(model, {"fc1.weight": [1]})
    with pytest.raises(
        CompactionError, match=f"differs from the masked one by .*the first layer that differs is {named}"
    ):
        compact(model, masks, example=SMALL.inputs(), form=form)
    compact(model, masks, example=SMALL.inputs(), form=form, verify=False)


def test_a_difference_behind_the_layers():
    class Stepping(nn.Module):
        """Changes what it computes when it is copied; nothing of that is in the graph."""

        def __init__(self):
            super().__init__()
            self.fc, self.copies = nn.Linear(6, 3), 0

        def __deepcopy__(self, memo):
            new = Stepping()
            new.load_state_dict(self.state_dict())
            new.copies = self.copies + 1
            return new

        def forward(self, x):
            return self.fc(x) + self.copies

    with pytest.raises(CompactionError, match="all layers with weights agree, so the difference lies in what follows"):
        compact(Stepping(), example=torch.randn(3, 6))


class Norm(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(2, 6, 3), norm, nn.Conv2d(6, 3, 3)

    def forward(self, x):
        return self.conv2(F.relu(self.norm(self.conv1(x)))).amax((2, 3))


@pytest.mark.parametrize(
    ("norm", "kept"),
    [(nn.GroupNorm(2, 6), 6), (nn.InstanceNorm2d(6), 5), (nn.PReLU(6), 5), (nn.PReLU(), 5), (nn.Softmax(1), 6),
     (nn.BatchNorm2d(6, affine=False), 5), (nn.Dropout2d(0.5), 5), (nn.LocalResponseNorm(2), 6),
     (nn.Softplus(), 5), (nn.Hardswish(), 5)],
)  # fmt: skip
def test_operations_that_mix_channels_keep_them(norm, kept):
    net = Net(lambda: Norm(norm), ((2, 9, 9),))
    model = net.make()
    masks = dead_rows(model, {"conv1.weight": [2]})
    for form in ("module", "graph"):
        small = compact(model, masks, example=net.inputs(), form=form)
        assert shapes(small)["conv1.weight"][0] == kept
        assert_same(masked_copy(model, masks), small, net)


def test_computed_weights_are_left_alone():
    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            weight = self.fc2.weight - self.fc2.weight.mean(1, keepdim=True)
            return F.linear(F.relu(self.fc1(x)), weight, self.fc2.bias)

    net = Net(Computed, ((6,),))
    model = net.make()
    masks = dead_rows(model, {"fc1.weight": [0]})
    assert_same(masked_copy(model, masks), compact(model, masks, example=net.inputs()), net)


def test_a_class_of_ones_own_with_groups_written_in_its_code():
    class Depthwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 1, 3, 3))

        def forward(self, x):
            return F.conv2d(x, self.weight, groups=6)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.own, self.conv2 = nn.Conv2d(2, 6, 3), Depthwise(), nn.Conv2d(6, 3, 1)

        def forward(self, x):
            return self.conv2(self.own(F.relu(self.conv1(x)))).amax((2, 3))

    net = Net(Own, ((2, 9, 9),))
    model = net.make()
    masks = dead_rows(model, {"conv1.weight": [2]})
    small = compact(model, masks, example=net.inputs())
    assert_same(masked_copy(model, masks), small, net)
    assert shapes(small)["own.weight"][0] == 5
    small = compact(model, masks, example=net.inputs(), form="graph")
    assert_same(masked_copy(model, masks), small, net)
    assert shapes(small)["own.weight"][0] == 5  # a number in a step, which can be rewritten
