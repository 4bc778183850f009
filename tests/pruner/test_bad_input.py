"""Budgets in every currency, and bad input: a clear error, and nothing is lost."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from actprune import Budget, Pruner, methods
from actprune.errors import BudgetError, LayerCollapseError, ModelError, ObservationError, RecipeError
from actprune.schedules import OneShot
from actprune.testing import observe, small_net
from support.training import pruned


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (Budget.compression(4), 328),
        (Budget.parameters(200), 200),
        (Budget.flop(0.25), 328),
        (Budget.sparsity(0.75), 328),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_budgets_in_every_currency(budget, kept):
    model = small_net()  # 768 + 384 + 128 + 32 = 1312 weights
    pruner = Pruner(model, dataclasses.replace(methods.magnitude(0.5), budget=budget))
    pruner.prune()
    assert sum(int(mask.sum()) for mask in pruner.masks.values()) == kept


def test_bad_input_is_refused_and_changes_nothing():
    model = small_net()
    pruner = Pruner(model, methods.activation(0.9))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ObservationError, match="observe"):
        pruner.prune()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(ObservationError, match="NaN"):
        observe(pruner, model)
    with pytest.raises(ModelError, match="NaN"):
        Pruner(model, methods.magnitude(0.5)).prune()
    with torch.no_grad():
        model[2].weight[0, 0] = before["2.weight"][0, 0]
    observe(pruner, model)
    for wrong in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(RecipeError):
            pruner.prune(wrong)
        with pytest.raises(RecipeError):
            methods.activation(wrong)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert pruner.state.pruning_step == 0
    assert not pruner.masks


def test_layer_collapse_is_refused_unless_allowed_by_name():
    model = small_net()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    with pytest.raises(LayerCollapseError, match=r"2\.weight.*allow_collapse"):
        Pruner(model, methods.magnitude(0.6, keep_at_least=0)).prune()
    recipe = methods.magnitude(0.6, allow_collapse=("2.*",))
    pruner = Pruner(model, recipe)
    pruner.prune()
    assert not pruner.masks["2.weight"].any()


def test_a_budget_that_cannot_be_met_says_what_can():
    recipe = dataclasses.replace(methods.activation(0.9, score="neuron"), keep_at_least=10_000)
    model = small_net()
    pruner = Pruner(model, recipe)
    observe(pruner, model)
    with pytest.raises(BudgetError):
        pruner.prune()


def test_a_model_without_prunable_layers():
    with pytest.raises(ModelError, match="Linear"):
        Pruner(nn.Sequential(nn.LayerNorm(4), nn.ReLU()), methods.magnitude(0.5))


def test_a_second_prune_of_a_finished_recipe_says_so():
    _, pruner = pruned(methods.magnitude(0.5, schedule=OneShot()))
    with pytest.raises(RecipeError, match="pruning steps of this recipe are done"):
        pruner.prune()
