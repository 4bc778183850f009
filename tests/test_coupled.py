"""Units that span layers: what goes is what was asked for, of the network that is really left."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import actprune
from actprune import Budget, Channel, Head, Pruner, compact, magnitude, methods
from actprune.errors import BudgetError, ModelError, RecipeError
from actprune.evidence import Gradient
from support.coupled import Layer, Net, assert_equal, count, flop, images, in_bytes, pruned, residual, sequences


@pytest.fixture
def net():
    return residual()


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), Layer(), Layer(), nn.Linear(6, 3)).eval()


# ---- what is removed ------------------------------------------------------------------------------------------------


def test_a_channel_of_the_stream_goes_with_every_slice_of_it(net):
    with torch.no_grad():
        for weight in (net.stem.weight, net.blocks[0].b.weight, net.blocks[1].b.weight):
            weight[3] *= 1e-3
        for weight in (net.blocks[0].a.weight, net.blocks[1].a.weight, net.head.weight):
            weight[:, 3] *= 1e-3
    pruner, _ = pruned(net, magnitude(budget=Budget.channels(1 / 36), unit=Channel()), images())
    masks = pruner.masks
    gone = {name: torch.nonzero(~mask.flatten(1).any(1)).flatten().tolist() for name, mask in masks.items()
            if mask.dim() > 1}  # fmt: skip
    assert gone == {
        "stem.weight": [3], "blocks.0.b.weight": [3], "blocks.1.b.weight": [3],
        "blocks.0.a.weight": [], "blocks.1.a.weight": [], "head.weight": [],
    }  # fmt: skip
    for name in ("blocks.0.a.weight", "blocks.1.a.weight", "head.weight"):
        assert not masks[name][:, 3].any()
        assert masks[name][:, :3].all()
    for name in ("norm.weight", "norm.bias", "blocks.0.b.bias"):
        assert (~masks[name]).nonzero().flatten().tolist() == [3]
    assert not net.norm.bias[3]
    assert not net.norm.weight[3]
    small = compact(net, pruner.state)
    assert small.stem.out_channels == 11
    assert small.head.in_features == 11
    assert_equal(net, small, images(3))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_budget_is_met_within_one_group_in_what_is_really_left(net, share, scope):
    whole = {"parameters": count(net), "bytes": in_bytes(net), "flop": flop(net, images())}
    largest = {"parameters": 12 * 9 * 8, "bytes": 4 * 12 * 9 * 8, "flop": 2 * 64 * 12 * 9 * 8}
    budgets = {
        "parameters": Budget.parameters(round((1 - share) * whole["parameters"])),
        "bytes": Budget.bytes(round((1 - share) * whole["bytes"])),
        "flop": Budget.flop(1 - share),
    }
    for kind, budget in budgets.items():
        model = copy.deepcopy(net)
        pruner, report = pruned(model, magnitude(budget=budget, unit=Channel(), scope=scope), images())
        small = compact(model, pruner.state)
        left = {"parameters": count(small), "bytes": in_bytes(small), "flop": flop(small, images())}[kind]
        assert report.actual == pytest.approx(1 - left / whole[kind], abs=1e-9), kind
        assert report.target == pytest.approx(share, abs=1e-3)
        asked = (1 - share) * whole[kind]
        assert asked - largest[kind] <= left <= asked + 1, kind
        assert_equal(model, small, images(3))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_share_of_the_channels(net, scope):
    pruner, report = pruned(net, magnitude(budget=Budget.channels(0.5), unit=Channel(), scope=scope), images())
    assert report.actual == 0.5
    small = compact(net, pruner.state)
    widths = small.stem.out_channels, small.blocks[0].a.out_channels, small.blocks[1].a.out_channels
    assert sum(widths) == 18
    assert scope == "global" or widths == (6, 8, 4)
    assert "coupled channels" in str(report)
    assert "target 50.00%" in str(report)


def test_masked_biases_and_scales_are_counted_as_gone(net):
    pruner, report = pruned(net, magnitude(budget=Budget.channels(0.5), unit=Channel()), images())
    flat = {name: mask for name, mask in pruner.masks.items() if mask.dim() == 1}
    before = sum(each.numel() for each in net.parameters() if each.dim() == 1)
    left = before - sum(int((~mask).sum()) for mask in flat.values())
    assert left < before
    assert (report.network.biases, report.network.biases_kept) == (before, left)
    assert f"{before} -> {left} biases and scales" in str(report)


def test_sparsity_counts_all_parameters_of_the_network(net):
    before = count(net)
    pruner, report = pruned(net, magnitude(0.5, unit=Channel()), images())
    left = count(compact(net, pruner.state))
    assert report.actual == pytest.approx(1 - left / before)
    assert 0.5 <= report.actual < 0.6


# ---- widths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [2, 4])
def test_what_is_left_is_a_multiple(net, multiple):
    unit = Channel(round_to=multiple)
    pruner, report = pruned(net, magnitude(budget=Budget.channels(0.4), unit=unit), images())
    assert report.actual >= 0.4
    small = compact(net, pruner.state)
    for conv in (small.stem, small.blocks[0].a, small.blocks[1].a):
        assert conv.out_channels % multiple == 0


def test_bundles_are_bounded_by_pattern(net):
    unit = Channel(at_most=(("stem.*", 0.0), ("*", 0.5)))
    pruner, _ = pruned(net, magnitude(budget=Budget.channels(12 / 36), unit=unit), images())
    small = compact(net, pruner.state)
    assert (small.stem.out_channels, small.blocks[0].a.out_channels, small.blocks[1].a.out_channels) == (12, 8, 4)
    with pytest.raises(BudgetError, match=r"at most 0\.333333.*raise at_most="):
        pruned(Net(), magnitude(budget=Budget.channels(0.4), unit=unit), images())


def test_uniform_widths_for_alike_places(transformer):
    with torch.no_grad():
        transformer[1].up.weight.mul_(torch.linspace(0.01, 1, 10)[:, None])
    unit = Channel(uniform=True, normalize=False, members="outputs")
    pruner, _ = pruned(transformer, magnitude(budget=Budget.channels(0.4), unit=unit, scope="global"), sequences())
    small = compact(transformer, pruner.state)
    assert small[1].up.out_features == small[2].up.out_features < 10
    assert small[1].attention.q.out_features == small[2].attention.q.out_features
    assert_equal(transformer, small, sequences())
    uneven = Channel(normalize=False, members="outputs")
    again = nn.Sequential(nn.Linear(5, 6), Layer(), Layer(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        again[1].up.weight.mul_(1e-3)
    pruner, _ = pruned(again, magnitude(budget=Budget.channels(0.3), unit=uneven, scope="global"), sequences())
    assert compact(again, pruner.state)[1].up.out_features < 10 == compact(again, pruner.state)[2].up.out_features


def test_heads_go_with_the_keys_and_values_that_they_share(transformer):
    pruner, report = pruned(
        transformer, magnitude(budget=Budget.channels(0.5), unit=Head(), scope="layer"), sequences()
    )
    assert report.actual == 0.5
    small = compact(transformer, pruner.state)
    for layer in small[1:3]:
        assert [f.out_features for f in (layer.attention.q, layer.attention.k, layer.attention.v)] == [6, 3, 3]
        assert layer.attention.out.in_features == 6
        assert layer.up.out_features == 10
    assert_equal(transformer, small, sequences())


def test_no_head_to_remove_is_said(net):
    with pytest.raises(ModelError, match=r"Head\(.*finds nothing that could be removed"):
        pruned(net, magnitude(budget=Budget.channels(0.5), unit=Head()), images())


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_the_score_of_a_group_is_that_of_its_members():
    """Rows (1, 1), (2, 2), (6, 6) of one layer and (9, 9), (3, 3), (0, 0) of the other: by mean the second goes."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.a(x) + self.b(x))

    def lowest(**options):
        model = Sum()
        with torch.no_grad():
            model.a.weight.copy_(torch.tensor([1.0, 2.0, 6.0])[:, None].expand(3, 2))
            model.b.weight.copy_(torch.tensor([9.0, 3.0, 0.0])[:, None].expand(3, 2))
        unit = Channel(**options)
        pruner, _ = pruned(model, magnitude(budget=Budget.channels(1 / 3), unit=unit), torch.randn(2, 2))
        return int((~pruner.masks["a.weight"]).all(1).nonzero())

    # means are 3 and 4: normalised (1/3, 2/3, 2) and (9/4, 3/4, 0)
    rows = {"members": "outputs"}
    assert lowest(reduce="mean", **rows) == 1  # 2.58, 1.42, 2
    assert lowest(reduce="sum", normalize=False, **rows) == 1  # 10, 5, 6
    assert lowest(reduce="max", normalize=True, **rows) == 1  # 2.25, .75, 2
    assert lowest(reduce="max", normalize=False, **rows) == 1  # 9, 3, 6


class Pair(nn.Module):
    """Two hidden neurons with rows (1, 1) and (3, 3), read by columns (4, 4) and (1, 1)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
            self.b.weight.copy_(torch.tensor([[4.0, 1.0], [4.0, 1.0]]))

    def forward(self, x):
        return self.b(self.a(x).relu())


def gone(recipe, x, **options):
    """Which of the pair goes, with a loss that is the sum of the outputs."""
    model = Pair()
    pruner = Pruner(model, recipe, example=x, **options)
    with pruner.observe():
        out = model(x)
        if out.requires_grad:
            out.sum().backward()
    pruner.prune()
    return int((~pruner.masks["a.weight"]).all(1).nonzero())


HALF_OF_IT = Budget.channels(0.5)


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({"members": "outputs"}, 0),  # 1/2, 3/2
        ({"members": "inputs"}, 1),  # 8/5, 2/5
        ({"members": "all"}, 1),  # the larger of them: 8/5, 3/2
        ({"members": "all", "reduce": "mean"}, 1),  # 1.05, 0.95
        ({}, 1),  # as "all", for a magnitude
    ],
)
def test_rows_make_a_group_and_columns_read_it(options, lost):
    assert gone(magnitude(budget=HALF_OF_IT, unit=Channel(**options)), torch.ones(2, 2)) == lost


@pytest.mark.parametrize("options", [{}, {"only": ["a"]}, {"skip": ["b"]}])
def test_wanda_and_taylor_look_at_what_reads_a_channel_also_where_that_layer_is_left_alone(options):
    """The neurons send 2 and 6: |w| |x| of the columns is 8 and 6, of the rows 1 and 3; the loss loses 16 and 12."""
    x = torch.ones(2, 2)
    for method in (methods.wanda, methods.taylor):
        assert gone(method(budget=HALF_OF_IT, unit=Channel()), x, **options) == 1
    assert gone(methods.wanda(budget=HALF_OF_IT, unit=Channel(members="outputs")), x, **options) == 0
    # over the rows Taylor is the same here: no bias, no norm, and a ReLU that lets all pass
    assert gone(methods.taylor(budget=HALF_OF_IT, unit=Channel(members="outputs")), x, **options) == 1


def test_a_layer_that_is_left_alone_needs_no_gradient():
    model, x = Pair(), torch.ones(2, 2)
    model.b.requires_grad_(False)
    pruner = Pruner(model, methods.taylor(budget=HALF_OF_IT, unit=Channel()), example=x)
    with pruner.observe():
        model(x).sum().backward()
    pruner.prune()  # by the rows, as the columns have no gradient
    assert int((~pruner.masks["a.weight"]).all(1).nonzero()) == 1


def test_a_random_number_belongs_to_a_group_and_not_to_each_of_its_members():
    """Were it the mean over members, a stream of many layers would lose nothing, as the lowest means are of the few."""

    def recipe(seed):
        return methods.random(budget=Budget.channels(0.25), unit=Channel(), scope="global", seed=seed)

    lost = []
    for seed in range(40):
        net = residual()
        pruner, _ = pruned(net, recipe(seed), images())
        lost.append(int((~pruner.masks["stem.weight"]).flatten(1).all(1).sum()))
    assert 2 <= sum(lost) / len(lost) <= 4  # 3 of 12, as of any other bundle
    assert max(lost) >= 5


CRITERIA = {
    "magnitude": magnitude, "random": methods.random, "wanda": methods.wanda, "taylor": methods.taylor,
    "obd": methods.obd,
    "activation": actprune.activation, "geometric_median": methods.geometric_median, "slimming": methods.slimming,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CRITERIA))
@pytest.mark.parametrize("kind", ["net", "transformer"])
def test_every_criterion_ranks_groups(name, kind, request):
    model, x = request.getfixturevalue(kind), images() if kind == "net" else sequences()
    if kind == "transformer" and name == "slimming":
        model = nn.Sequential(model[0], nn.LayerNorm(6), *model[1:]).eval()
    recipe = CRITERIA[name](budget=Budget.channels(0.3), unit=Channel())
    pruner = Pruner(model, recipe, example=x)
    with pruner.observe():
        out = model(x)
        if any(isinstance(each, Gradient) for each in recipe.evidence):
            out.square().sum().backward()
    report = pruner.prune()
    assert report.actual >= 0.3
    small = compact(model, pruner.state)
    assert count(small) < count(model)
    assert_equal(model, small, x)


def test_slimming_takes_the_smallest_scales_and_says_what_has_none(net):
    with torch.no_grad():
        net.blocks[0].norm.weight[:4] = 0.01
    pruner, report = pruned(net, methods.slimming(budget=Budget.channels(4 / 36)), images())
    assert (~pruner.masks["blocks.0.a.weight"]).flatten(1).all(1).nonzero().flatten().tolist() == [0, 1, 2, 3]
    bare = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    _, report = pruned(bare.eval(), methods.slimming(budget=Budget.channels(0.5)), torch.randn(2, 4))
    assert any("3.weight and what goes with it stay" in note for note in report.notes)


def test_scales_need_units_that_have_some():
    with pytest.raises(RecipeError, match=r"scores the scales of norms.*unit=Channel\(\)"):
        dataclasses.replace(magnitude(0.5), criterion=actprune.criteria.NormScale())


def test_the_filter_nearest_to_the_others_goes_first():
    """Filters on a line: sums of distances are 11.5, 10.5, 10.5 and 26.5, so one of the middle two goes."""
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5], [1.0], [2.0], [10.0]]))
    pruner, _ = pruned(model, methods.geometric_median(budget=Budget.channels(0.25)), torch.rand(2, 1))
    assert pruner.masks["0.weight"].flatten().tolist() in ([True, False, True, True], [True, True, False, True])


# ---- over time ------------------------------------------------------------------------------------------------------


def test_pruning_further_keeps_what_is_gone_and_counts_it(net):
    recipe = magnitude(budget=Budget.channels(0.6), unit=Channel(), schedule=actprune.schedules.Cubic(0, 3, 1))
    pruner = Pruner(net, recipe, example=images())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    net.train()
    before, actuals = {}, []
    for _ in range(5):
        optimizer.zero_grad()
        net(images(8)).square().mean().backward()
        optimizer.step()
        for name, mask in pruner.masks.items():
            assert not net.get_parameter(name)[~mask].any(), name  # scales and biases are held, too
            assert not (mask & ~before.get(name, torch.ones_like(mask))).any()
        before = {name: mask.clone() for name, mask in pruner.masks.items()}
        actuals.append(pruner.last_report.actual)
    assert actuals == sorted(actuals)
    assert actuals[-1] >= 0.6
    net.eval()
    assert_equal(net, compact(net, pruner.state), images(3))


def test_a_resumed_run_is_the_same_bit_for_bit(net):
    recipe = magnitude(budget=Budget.channels(0.6), unit=Channel(), schedule=actprune.schedules.Cubic(0, 4, 2))

    def go_on(model, pruner, steps):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner.attach(optimizer)
        for _ in range(steps):
            optimizer.zero_grad()
            model(images(8)).square().mean().backward()
            optimizer.step()
        pruner.detach()

    whole = copy.deepcopy(net)
    uninterrupted = Pruner(whole, recipe, example=images())
    go_on(whole, uninterrupted, 6)
    first = Pruner(net, recipe, example=images())
    go_on(net, first, 3)
    again = copy.deepcopy(net)
    second = Pruner(again, recipe, example=images())
    second.load_state_dict(first.state_dict())
    go_on(again, second, 3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name, mask in uninterrupted.masks.items():
        assert torch.equal(mask, second.masks[name]), name


def test_rounds_of_pruning_training_and_compacting(net):
    """The optimizer goes on with the small network, which a second Pruner makes smaller still."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def train(model):
        model.train()
        for _ in range(3):
            optimizer.zero_grad()
            model(images(8)).square().mean().backward()
            optimizer.step()
        model.eval()

    train(net)
    model, sizes = net, [count(net)]
    for _ in range(2):
        pruner = Pruner(model, magnitude(budget=Budget.channels(0.3), unit=Channel()), example=images())
        pruner.prune()
        model = compact(model, pruner.state, optimizer=optimizer)
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
            id(p) for p in model.parameters()
        }
        for parameter in model.parameters():
            assert optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape
        train(model)
        sizes.append(count(model))
    assert sizes[0] > sizes[1] > sizes[2]
