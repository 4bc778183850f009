"""Models with factored layers: what they compute, what they are called, and that they ship."""

import copy

import pytest
import torch
from torch import nn

import actprune
from actprune import lowrank
from actprune.errors import ModelError, RecipeError
from actprune.testing import small_data, small_net


def test_full_rank_computes_the_same_and_the_model_is_untouched():
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    x, _ = small_data()
    small = lowrank.replace(net, {"2.weight": 16, "0.weight": 24}, allow_growth=True)
    assert torch.allclose(small(x), net(x), atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert list(small.state_dict())[:4] == ["0.first.weight", "0.second.weight", "0.second.bias", "2.first.weight"]
    assert lowrank.weights(net) == 32 * 24 + 24 * 16 + 16 * 8 + 8 * 4
    assert lowrank.weights(small) == 24 * 56 + 16 * 40 + 16 * 8 + 8 * 4


def test_low_rank_saves_weights_and_trains():
    net = small_net()
    x, y = small_data()
    small = lowrank.replace(net, {"0.weight": 5, "2.weight": 4})
    assert lowrank.weights(small) == 5 * 56 + 4 * 40 + 16 * 8 + 8 * 4
    loss = nn.functional.cross_entropy(small(x), y)
    loss.backward()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    optimizer.step()
    assert nn.functional.cross_entropy(small(x), y) < loss
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_activation_aware_takes_its_moments_by_name():
    net = small_net()
    x, _ = small_data()
    moments = lowrank.input_moments(net, [x])
    aware = lowrank.replace(net, {"0.weight": 4}, "activation", moments=moments)
    plain = lowrank.replace(net, {"0.weight": 4})
    wanted = net[0](x)
    assert (aware[0](x) - wanted).square().sum() < (plain[0](x) - wanted).square().sum()
    with pytest.raises(ModelError, match="input_moments"):
        lowrank.replace(net, {"0.weight": 4}, "activation")


def test_ranks_that_save_nothing_are_refused_with_the_largest_that_pays():
    net = small_net()  # 0.weight is 24 x 32: 768 weights, 56 a rank, so at most 13
    assert lowrank.weights(lowrank.replace(net, {"0.weight": 13})) < lowrank.weights(net)
    with pytest.raises(RecipeError, match="at most 13 directions pay"):
        lowrank.replace(net, {"0.weight": 14})
    with pytest.raises(RecipeError, match="14 directions"):  # the mean of a PCA is a direction, too
        lowrank.replace(net, {"0.weight": 13}, "pca")


class Twice(nn.Module):
    """One layer used twice, a conv before it, a tied one after it."""

    def __init__(self, tied=False):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1, padding_mode="reflect")
        self.mid = nn.Linear(24, 24)
        self.again = self.mid
        self.out = nn.Linear(24, 24)
        if tied:
            self.out.weight = self.mid.weight

    def forward(self, x):
        x = self.conv(x).relu().flatten(1)
        return self.out(self.again(self.mid(x).relu()).relu())


def test_convs_become_a_conv_and_a_1x1_and_shared_layers_stay_shared():
    torch.manual_seed(0)
    net = Twice().double().eval()
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    small = lowrank.replace(net, {"conv.weight": 6, "mid.weight": 24}, allow_growth=True)
    assert torch.allclose(small(x), net(x))
    assert small.mid is small.again
    assert small.conv.first.weight.shape == (6, 1, 3, 3)
    assert small.conv.second.weight.shape == (6, 6, 1, 1)
    assert small.conv.first.bias is None
    assert not small.training


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (Twice(tied=True), "mid.weight", "shared by mid, out"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0.weight", "2 groups"),
        (nn.MultiheadAttention(8, 2), "out_proj.weight", "NonDynamicallyQuantizableLinear"),
        (nn.Sequential(nn.Linear(4, 4)), "1.weight", "did you mean '0.weight'"),
    ],
)
def test_layers_that_cannot_become_two_are_refused(model, name, reason):
    with pytest.raises(ModelError, match=reason.replace(".", r"\.")):
        lowrank.replace(model, {name: 1})


def test_dtype_device_and_frozen_parameters_stay():
    net = small_net().to(torch.bfloat16)
    net[0].weight.requires_grad_(False)
    small = lowrank.replace(net, {"0.weight": 4})
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}
    assert [p.requires_grad for p in small[0].parameters()] == [False, False, True]


def test_a_factored_model_prunes_compacts_and_ships(tmp_path):
    net = small_net().eval()
    x, _ = small_data()
    small = lowrank.replace(net, {"0.weight": 8, "2.weight": 6}).eval()
    path = actprune.save(small, tmp_path / "small.actprune", example=x[:2])
    loaded = actprune.load(path)
    assert torch.allclose(loaded(x), small(x), atol=1e-6)
    assert set(loaded.state_dict()) == set(small.state_dict())
    assert path.stat().st_size < actprune.save(net, tmp_path / "full.actprune", example=x[:2]).stat().st_size

    pruner = actprune.Pruner(small, actprune.magnitude(0.8, scope="layer"))
    pruner.prune()
    tight = actprune.compact(small, pruner.state, example=x[:2])
    assert torch.allclose(tight(x), small(x), atol=1e-5)
    assert lowrank.weights(tight) < lowrank.weights(small)
    again = actprune.load(actprune.save(tight, tmp_path / "tight.actprune"))
    assert torch.allclose(again(x), small(x), atol=1e-5)


def test_a_factored_conv_net_ships(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    x = torch.randn(2, 1, 8, 8)
    small = lowrank.replace(net, {"2.weight": 3, "5.weight": 2}).eval()
    loaded = actprune.load(actprune.save(small, tmp_path / "conv.actprune", example=x))
    assert torch.allclose(loaded(x), small(x), atol=1e-6)
    tight = actprune.compact(small, example=x)
    assert torch.allclose(tight(x), small(x), atol=1e-5)
