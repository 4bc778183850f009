"""Removing dead structure does not change what the network computes."""

import dataclasses

import pytest
import torch
from torch import nn

from actprune import Pruner, methods
from actprune.errors import RecipeError
from actprune.rank.units import Neuron
from actprune.repair import RemoveDead
from actprune.testing import observe, small_data, small_net
from support.engine import surgery


def biased(model):
    """Biases that dead neurons would really send on."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
                module.bias.uniform_(0.1, 0.5, generator=torch.Generator().manual_seed(5))
    return model


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(8 * 2 * 2, 12), nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip


@pytest.mark.parametrize("build", [small_net, conv_net], ids=["mlp", "conv"])
@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
def test_the_network_computes_the_same_without_its_dead_weights(build, sparsity):
    inputs = small_data()[0].double() if build is small_net else torch.rand(9, 1, 14, 14, dtype=torch.float64)
    plain, folded = biased(build().double()), biased(build().double())
    recipe = methods.activation(sparsity, score="neuron", remove_dead=True)
    recipe = dataclasses.replace(recipe, repairs=(RemoveDead(in_budget=False),))
    pruner = Pruner(folded, recipe)
    with pruner.observe():
        folded(inputs)
    pruner.prune()
    reference = Pruner(plain, dataclasses.replace(recipe, repairs=()))
    with reference.observe():
        plain(inputs)
    reference.prune()
    kept = sum(int(mask.sum()) for mask in pruner.masks.values())
    assert kept < sum(int(mask.sum()) for mask in reference.masks.values())  # there were dead weights
    with torch.no_grad():
        torch.testing.assert_close(folded.eval()(inputs), plain.eval()(inputs), rtol=1e-10, atol=1e-10)


def test_neurons_that_nobody_reads_are_removed_without_touching_the_outputs():
    """With count="zero" readers die one after another, and what fed them is not constant."""
    for seed in range(5):
        inputs = small_data()[0].double()
        folded, plain = biased(small_net().double()), biased(small_net().double())
        for model, remove in ((folded, True), (plain, False)):
            recipe = methods.activation_literal(0.7, count="zero", remove_dead=remove, seed=seed)
            pruner = Pruner(model, recipe)
            observe(pruner, model)
            pruner.prune(0.7)
        with torch.no_grad():
            torch.testing.assert_close(folded(inputs), plain(inputs), rtol=1e-10, atol=1e-10)


def test_dead_weights_inside_the_budget_give_what_was_asked():
    model = small_net()
    pruner = Pruner(model, methods.activation(0.8, score="neuron"))
    observe(pruner, model)
    report = pruner.prune()
    assert 0.8 <= report.actual < 0.86


def test_literal_dead_weights_come_on_top():
    model = small_net()
    pruner = Pruner(model, methods.activation_literal(0.6))
    observe(pruner, model)
    report = pruner.prune(0.6)
    assert report.actual > 0.62


def test_dead_neurons_have_no_weights_left_on_either_side():
    model = small_net()
    pruner = Pruner(model, methods.activation(0.8, score="neuron"))
    observe(pruner, model)
    pruner.prune()
    first, second = pruner.masks["0.weight"], pruner.masks["2.weight"]
    assert torch.equal(first.any(1), second.any(0))
    assert not first.any(1).all()


def test_a_constant_that_padding_makes_inexact_is_not_folded():
    torch.manual_seed(0)
    model = biased(nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(216, 3),
    ))  # fmt: skip
    inputs = torch.rand(4, 1, 6, 6)
    recipe = dataclasses.replace(
        methods.magnitude(0.5, unit=Neuron(), scope="layer", skip_output=True), repairs=(RemoveDead(),)
    )
    pruner = Pruner(model, recipe)
    with pruner.observe():
        model(inputs)
    pruner.prune()
    dead = ~pruner.masks["0.weight"].flatten(1).any(1)
    alive_rows = pruner.masks["2.weight"].flatten(1).any(1)
    assert dead.any()
    assert pruner.masks["2.weight"][alive_rows][:, dead].all()  # kept: their border would be wrong


def test_a_fold_that_fails_leaves_the_weights_as_they_were():
    model = small_net()
    pruner = Pruner(model, methods.activation(0.8, score="neuron"))
    observe(pruner, model)
    pruner.state.example = ((torch.zeros(2, 5),), {})  # does not fit the model
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(RuntimeError):
        pruner.prune()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert not pruner.masks


def test_splicing_and_folding_away_dead_weights_do_not_go_together():
    with pytest.raises(RecipeError, match="regrow='dense'"):
        surgery(repairs=(RemoveDead(),))
