"""Methods that look at inputs once and do not retrain, and magnitude's relatives: golden masks by the formulas."""

import dataclasses

import pytest
import torch
from torch import nn

import actprune
from actprune import Budget, Pruner, criteria, methods, recipes
from actprune.errors import ObservationError, RecipeError
from actprune.schedules import Cubic
from support.nets import given


def masks(model, recipe, x):
    pruner = Pruner(model, recipe, example=x)
    with pruner.observe():
        model(x)
    pruner.prune()
    return {name: mask.tolist() for name, mask in pruner.masks.items()}


def test_ria_weighs_a_weight_against_its_row_and_its_column():
    """1/3 + 1/2 and 2/3 + 2/8; 1/7 + 1/2 and 6/7 + 6/8. Times the root of the norms 1.44 and 1: 1.0, .92; .77, 1.61."""
    weight, x = [[1.0, 2.0], [1.0, 6.0]], torch.tensor([[1.44, 1.0]])
    found = masks(given(weight, [[1.0, 1.0]]), methods.ria(0.5), x)
    assert found["0.weight"] == [[True, False], [False, True]]
    # Wanda: 1.44, 2; 1.44, 6
    assert masks(given(weight, [[1.0, 1.0]]), methods.wanda(0.5), x)["0.weight"] == [[False, True], [False, True]]
    with pytest.raises(RecipeError, match=r"power=-1.*the paper has 0\.5"):
        methods.ria(power=-1)


def outlying() -> nn.Sequential:
    """Two layers of 4 x 4: a column of the first is a hundred times the others, all of the second is alike."""
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(16.0).view(4, 4) + 1).mul_(torch.tensor([1.0, 1.0, 100.0, 1.0]))
        net[1].weight.copy_(torch.linspace(1, 1.1, 16).view(4, 4))
    return net


def test_owl_keeps_more_where_more_weights_stand_out():
    """The third column is above twice the mean: D is 1/4 and 0, brought to 2 spread and 0, less their mean."""
    x = torch.eye(4)
    recipe = methods.owl(0.5, times=2.0, spread=0.25)
    found = masks(outlying(), recipe, x)
    assert [sum(row) for row in found["0.weight"]] == [3, 3, 3, 3]  # 0.5 + 0.25
    assert [sum(row) for row in found["1.weight"]] == [1, 1, 1, 1]  # 0.5 - 0.25
    assert all(row[2] for row in found["0.weight"])
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe


def test_owl_with_no_spread_is_wanda():
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    assert masks(outlying(), methods.owl(0.5, spread=0.0), x) == masks(outlying(), methods.wanda(0.5), x)


def test_layers_of_one_block_share_a_density():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(
                nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)}) for _ in range(3)
            )

        def forward(self, x):
            for each in self.layers:
                x = x + each["down"](each["up"](x).relu())
            return x

    torch.manual_seed(0)
    net, x = Net(), torch.randn(16, 6)
    with torch.no_grad():
        net.layers[1]["up"].weight[0] *= 30
    pruner = Pruner(net, methods.owl(0.5, spread=0.2), example=x)
    with pruner.observe():
        net(x)
    report = pruner.prune()
    kept = {name: mask.float().mean().item() for name, mask in pruner.masks.items()}
    assert (
        kept["layers.1.up.weight"] > kept["layers.0.up.weight"] == pytest.approx(kept["layers.0.down.weight"], abs=0.1)
    )
    assert report.actual == pytest.approx(0.5)


def test_bad_options_of_outliers_are_refused():
    with pytest.raises(RecipeError, match="times > 0"):
        criteria.Outliers(times=0)


def test_gradual_magnitude_prunes_every_layer_alike_along_the_cubic():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 10))
    with torch.no_grad():
        net[0].weight.mul_(100)
    recipe = methods.gradual_magnitude(0.8, begin=0, end=4, every=2)
    assert recipe.schedule == Cubic(0, 4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    pruner = Pruner(net, recipe, example=torch.zeros(2, 20)).attach(optimizer)
    sparsities = []
    for _ in range(4):
        optimizer.zero_grad()
        net(torch.randn(4, 20)).sum().backward()
        optimizer.step()
        sparsities.append([1 - mask.float().mean().item() for mask in pruner.masks.values()])
    assert sparsities[1] == pytest.approx([0.7, 0.7])  # 0.8 (1 - (1 - 1/2)^3)
    assert sparsities[3] == pytest.approx([0.8, 0.8])


def test_l1_filters_go_by_their_own_norm_whoever_reads_them():
    model = given([[1.0, -1.0], [2.0, 2.0]], [[9.0, 0.1], [9.0, 0.1]])
    recipe = methods.l1_filters(budget=Budget.channels(0.5))
    pruner = actprune.Pruner(model, recipe, example=torch.ones(2, 2))
    pruner.prune()
    assert pruner.masks["0.weight"].tolist() == [[False, False], [True, True]]
    assert pruner.masks["2.weight"].tolist() == [[False, True], [False, True]]


def test_grasp_removes_what_the_gradient_flows_better_without():
    """Of (w x)^2 / 2 with x = (1, 1, 1) and w x = 2: H g = 6, w H g = 6, -12, 18. By |w H g| the first would go."""
    model, x = nn.Sequential(nn.Linear(3, 1, bias=False)), torch.ones(1, 3)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
    model[0].weight.grad = torch.full((1, 3), 7.0)
    pruner = Pruner(model, methods.grasp(1 / 3), example=x)
    with pruner.observe():
        (model(x).square().sum() / 2).backward(create_graph=True)
    pruner.prune()
    assert pruner.masks["0.weight"].tolist() == [[True, False, True]]
    assert model[0].weight.grad.tolist() == [[7.0, 7.0, 7.0]]  # the optimizer's, and of no graph
    assert model[0].weight.grad.grad_fn is None


def test_grasp_says_how_the_gradient_has_to_be_made():
    model, x = nn.Sequential(nn.Linear(3, 1)), torch.ones(1, 3)
    pruner = Pruner(model, methods.grasp(1 / 3), example=x)
    with (
        pytest.raises(ObservationError, match=r"call loss\.backward\(create_graph=True\) inside observe"),
        pruner.observe(),
    ):
        model(x).square().sum().backward()
    with pytest.raises(ObservationError, match=r"needs 'hessian_gradient'.*create_graph=True"):
        pruner.prune()


def test_batches_of_grasp_add_up_to_one_loss():
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    found = []
    for parts in ([x], [x[:2], x[2:]]):
        pruner = Pruner(net, methods.grasp(0.5), example=x)
        with pruner.observe():
            for part in parts:
                net(part).square().sum().backward(create_graph=True)
        found.append(pruner.state.gradients)
    for name, product in found[0].items():
        torch.testing.assert_close(found[1][name], product)


def test_obd_squares_the_gradient_of_every_backward_pass():
    """Of w x with x = (1, 0), (-1, 2): squares add up to 2 and 4, times w^2 = 4 and 1. The gradients' sum is 0, 2."""
    model, given_x = nn.Sequential(nn.Linear(2, 1, bias=False)), torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 1.0]]))
    model[0].weight.grad = torch.ones(1, 2)
    pruner = Pruner(model, methods.obd(0.5), example=given_x)
    with pruner.observe():
        for x in given_x:
            model(x[None]).sum().backward()
    assert pruner.state.gradients["0.weight"].tolist() == [[2.0, 4.0]]
    pruner.prune()
    assert pruner.masks["0.weight"].tolist() == [[True, False]]
    assert model[0].weight.grad.tolist() == [[1.0, 1.0]]


def test_squares_need_a_backward_pass():
    model, x = nn.Sequential(nn.Linear(2, 1)), torch.ones(1, 2)
    pruner = Pruner(model, methods.obd(0.5), example=x)
    with pytest.raises(ObservationError, match=r"no gradient reached.*inside observe"), pruner.observe():
        model(x)
    with pytest.raises(ObservationError, match=r"needs 'gradient_square' of.*call loss\.backward\(\) inside observe"):
        pruner.prune()


def test_a_recipe_takes_one_form_of_the_gradient():
    class Both:
        needs = (*criteria.Fisher().needs, *criteria.Saliency().needs)

        def score(self, layer):
            return layer.weight

    with pytest.raises(RecipeError, match="ask for one of them"):
        Pruner(nn.Sequential(nn.Linear(2, 1)), dataclasses.replace(methods.obd(0.5), criterion=Both()))
