"""Every method passes the public conformance suite; golden masks come from the published formulas by hand."""

import dataclasses
import inspect
from functools import partial

import pytest
import torch
from torch import nn

import actprune
from actprune import methods, recipes
from actprune.coupled import Channel
from actprune.errors import RecipeError
from actprune.rank.units import Block, Neuron
from actprune.schedules import AccuracyTriggered
from actprune.scopes import NM
from actprune.testing import CHECKS, check_method, prune, small_net

UNIT_IS_CHOSEN = ("apoz", "magnitude", "obd", "random", "taylor", "wanda")

VARIANTS = {
    **{name: method for name, method in methods.REGISTRY.items() if "sparsity" in inspect.signature(method).parameters},
    "activation, neuron": partial(methods.activation, score="neuron"),
    "activation, zero": partial(methods.activation, count="zero", across="count", remove_dead=False),
    "activation, mean_abs": partial(methods.activation, count="mean_abs", remove_dead=False),
    "activation, layer scope": partial(methods.activation, scope="layer", across="rate"),
    "activation_literal, local": partial(methods.activation_literal, scope="layer", remove_dead=False),
    "activation_literal, x weight": partial(methods.activation_literal, score="neuron_weight", remove_dead=False),
    "magnitude, ERK": partial(methods.magnitude, scope="layer", allocation="erk"),
    "magnitude, rows": partial(methods.magnitude, scope="row"),
    "magnitude, neurons": partial(methods.magnitude, unit=Neuron(), skip_output=True),
    "magnitude, blocks": partial(methods.magnitude, unit=Block(2, 4)),
    "magnitude, 2:4": partial(methods.magnitude, scope=NM(2, 4)),
    "wanda, 2:4": partial(methods.wanda, scope=NM(2, 4)),
    "activation, coupled": partial(methods.activation, unit=Channel()),
    **{f"{name}, coupled": partial(methods.REGISTRY[name], unit=Channel()) for name in UNIT_IS_CHOSEN},
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", VARIANTS)
def test_conformance(name, check):
    check(VARIANTS[name])


def test_the_conformance_suite_catches_a_method_that_lies_about_its_budget():
    def stingy(sparsity, *, seed=0):
        return methods.magnitude(sparsity / 2, seed=seed)

    check_method(methods.magnitude)
    recipe = stingy(0.8)
    assert recipe.budget.value == 0.4  # what it really asks for


def two_layers() -> nn.Sequential:
    """A 2-3-2 net whose firing counts on ``inputs()`` are 4, 2 and 1 by construction."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0], [-1.0, 0.5]]))
        net[0].bias.copy_(torch.tensor([1.0, -1.0, 0.0]))
        net[2].weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [0.5, 1.5, -0.25]]))
        net[2].bias.zero_()
    return net


def inputs() -> torch.Tensor:
    # pre-activations of the three neurons:  (2, 2, -1) (3, -2, .5) (1, -1, 0) (4, 1, -.5)
    return torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])


def pruned(recipe, fraction):
    net = two_layers()
    pruner = actprune.Pruner(net, recipe)
    with pruner.observe():
        net(inputs())
    pruner.prune(fraction)
    return pruner


def test_golden_counts_are_exact():
    pruner = pruned(methods.activation(0.3, remove_dead=False), 0.3)
    sums = pruner.state.sums["0.weight"]
    assert sums["fired"].tolist() == [4, 2, 1]
    assert int(sums["rows"]) == 4


def test_golden_neuron_score_removes_the_quietest_neuron():
    masks = pruned(methods.activation_literal(0.3, remove_dead=False), 2 / 12).masks
    assert masks["0.weight"].tolist() == [[True, True], [True, True], [False, False]]
    assert "2.weight" not in masks  # the output layer is left alone


def test_golden_neuron_weight_score():
    # scores c |w|: 4 8 / 6 2 / 1 .5; four of twelve weights (all kernels count): .5, 1, 2, 4 go
    masks = pruned(methods.activation_literal(0.3, score="neuron_weight", remove_dead=False), 4 / 12).masks
    assert masks["0.weight"].tolist() == [[False, True], [True, False], [False, False]]


def test_golden_zero_count_removes_the_most_active_neuron():
    masks = pruned(methods.activation_literal(0.3, count="zero", remove_dead=False), 2 / 12).masks
    assert masks["0.weight"].tolist() == [[False, False], [True, True], [True, True]]


def test_golden_mean_abs():
    # means of the activations: 2.5, .75, .125
    pruner = pruned(methods.activation(0.3, score="neuron", count="mean_abs", remove_dead=False), 0.3)
    sums = pruner.state.sums["0.weight"]
    assert (sums["out_abs"] / sums["rows"]).tolist() == [2.5, 0.75, 0.125]
    assert pruner.masks["0.weight"].any(1).tolist() == [True, True, False]


def test_golden_apoz_is_one_minus_the_firing_rate():
    masks = pruned(methods.apoz(0.3), 0.3).masks
    assert masks["0.weight"].any(1).tolist() == [True, True, False]


def test_golden_wanda():
    # ||x_0|| = sqrt 2, ||x_1|| = sqrt 2; hidden inputs to layer 2: sums of squares 30, 5, .25
    pruner = pruned(methods.wanda(0.5), 0.5)
    assert pruner.masks["0.weight"].tolist() == [[False, True], [True, False], [True, False]]
    norms = torch.tensor([30.0, 5.0, 0.25]).sqrt()
    scores = two_layers()[2].weight.abs() * norms
    keep = pruner.masks["2.weight"]
    for row in range(2):
        assert scores[row][keep[row]].min() > scores[row][~keep[row]].max()


def test_golden_snip():
    net = two_layers()
    pruner = actprune.Pruner(net, methods.snip(0.5))
    with pruner.observe():
        net(inputs()).square().sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    gradients = dict(pruner.state.gradients)
    net(inputs()).square().sum().backward()
    assert torch.equal(gradients["0.weight"], net[0].weight.grad)
    scores = torch.cat([(p.detach() * p.grad).abs().flatten() for p in (net[0].weight, net[2].weight)])
    pruner.prune(0.5)
    kept = torch.cat([mask.flatten() for mask in pruner.masks.values()])
    assert scores[kept].min() >= scores[~kept].max()
    assert int((~kept).sum()) == 6


def test_amounts_and_thresholds_of_the_founding_schedule():
    schedule = AccuracyTriggered(pruning_steps=5, start=0.80, stop=0.98)
    targets = [schedule.target(actprune.Progress(pruning_step=i), 1.0) for i in range(5)]
    steps = [100 * (b - a) for a, b in zip([0, *targets], targets, strict=False)]
    assert [round(step, 2) for step in steps] == [29.75, 23.80, 19.04, 15.23, 12.18]
    assert [round(schedule.threshold(i), 3) for i in range(5)] == [0.80, 0.836, 0.872, 0.908, 0.944]


def test_unknown_names_come_with_the_nearest_match():
    with pytest.raises(RecipeError, match="did you mean 'magnitude'"):
        methods.make("magnitud", {})
    with pytest.raises(RecipeError, match="did you mean 'scope'"):
        methods.make("magnitude", {"scop": "global"})


def test_a_criterion_of_ones_own_can_be_stored_once_registered():
    @dataclasses.dataclass(frozen=True)
    class Quiet:
        @property
        def needs(self):
            return ()

        def score(self, layer):
            return layer.weight.square()

    recipe = dataclasses.replace(methods.magnitude(0.5), criterion=Quiet())
    with pytest.raises(RecipeError, match="Quiet"):
        recipes.from_dict(recipes.to_dict(recipe))
    recipes.register(Quiet)
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe


@pytest.mark.parametrize("name", sorted(set(methods.REGISTRY) - {"activation_literal"}))
def test_what_an_error_advises_is_an_option_of_every_method(name):
    """``activation_literal`` is the method with nothing in its way: there a layer may be emptied."""
    options = inspect.signature(methods.REGISTRY[name]).parameters
    assert "allow_collapse" in options or isinstance(options["unit"].default, Channel)  # one of each is always left
    assert "keep_at_least" in options or name == "sparsegpt"  # it removes the same share of every layer


@pytest.mark.parametrize("name", ["magnitude", "activation", "random", "snip", "wanda"])
def test_by_default_no_layer_is_emptied(name):
    """A network whose second layer would go as a whole."""
    model = small_net()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    pruner = prune(model, methods.REGISTRY[name](0.7), 0.7)[0]
    assert all(bool(mask.any()) for mask in pruner.masks.values())
