"""Units that span layers: what is left alone, and what is said of models and options that do not fit."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune import Budget, Channel, Pruner, activation, compact, magnitude, methods, recipes
from actprune.errors import BudgetError, ModelError, ObservationError, RecipeError
from support.coupled import Net, images, pruned, residual


@pytest.fixture
def net():
    return residual()


def test_a_skipped_layer_keeps_its_width_and_is_named(net):
    recipe = magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer")
    pruner, report = pruned(net, recipe, images(), skip=["stem"])
    small = compact(net, pruner.state)
    assert small.stem.out_channels == 12
    assert (small.blocks[0].a.out_channels, small.blocks[1].a.out_channels) == (8, 4)
    assert any("stem.weight and what goes with it stay: skipped" in note for note in report.notes)


def test_a_group_larger_than_the_budget_is_an_error_and_changes_nothing(net):
    before = copy.deepcopy(net.state_dict())
    recipe = magnitude(budget=Budget.parameters(10), unit=Channel())
    with pytest.raises(BudgetError, match=r"whole coupled channels can remove at most 0\.\d+; ask for less"):
        pruned(net, recipe, images())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_the_structure_must_have_been_seen(net):
    pruner = Pruner(net, magnitude(budget=Budget.channels(0.5), unit=Channel()))
    with pytest.raises(ObservationError, match="example="):
        pruner.prune()
    with pruner.observe():
        net(images())
    assert pruner.prune().actual == 0.5


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.a(x)).view(77)


HALF = magnitude(budget=Budget.channels(0.5), unit=Channel())
BAD = {
    "shape": (
        Net,
        torch.zeros(2, 4, 8, 8),
        r"fails on the example itself, of shape \(2, 4, 8, 8\) torch.float32 on cpu",
    ),
    "dtype": (Net, torch.zeros(2, 3, 8, 8, dtype=torch.int64), "give an example of the shape and type"),
    "meta example": (Net, torch.zeros(2, 3, 8, 8, device="meta"), "parameters are on cpu: bring both to one device"),
    "meta model": (lambda: Net().to("meta"), torch.zeros(2, 3, 8, 8), "meta device and have no values: load"),
    "fails itself": (Fails, torch.zeros(2, 3), r"Fails fails on the example itself.*\[77\]"),
    "scripted": (lambda: torch.jit.script(Net()), torch.zeros(2, 3, 8, 8), "prune the module that it was made from"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", BAD)
def test_a_model_and_an_example_that_do_not_fit_are_one_clear_error(kind):
    build, example, words = BAD[kind]
    model = build()
    with pytest.raises(ModelError, match=words):
        Pruner(model, HALF, example=example).prune()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantised_layer_is_named():
    with torch.random.fork_rng():
        model = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match=r"head is quantised .* compact the float model, then quantise the result"):
        Pruner(model, HALF, example=images())


def test_a_model_in_training_mode_is_looked_at_with_one_example_and_stays_as_it_is(net):
    net.train()
    before = copy.deepcopy(net.state_dict())
    pruner = Pruner(net, HALF, example=images(1))
    assert net.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    pruner.prune()
    small = compact(net, pruner.state)
    assert small.training


def test_an_operation_without_a_rule_is_named_with_what_it_cost():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.c(F.relu(self.b(torch.linalg.svd(self.a(x))[2][: len(x)])))

    _, report = pruned(Odd(), HALF, torch.randn(4, 3))
    assert any("_linalg_svd (in the model) has no rule" in note for note in report.notes)


def test_only_some_layers(net):
    recipe = magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer")
    pruner, report = pruned(net, recipe, images(), only=["blocks.0.a"])
    small = compact(net, pruner.state)
    assert (small.stem.out_channels, small.blocks[0].a.out_channels, small.blocks[1].a.out_channels) == (12, 8, 8)
    assert any("not in only=" in note for note in report.notes)
    with pytest.raises(ModelError, match=r"only='blocks.2' matches no layer"):
        Pruner(net, recipe, example=images(), only=["blocks.2"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unit": Channel(), "scope": "row"}, "scope='row'"),
        ({"unit": Channel(), "remove_dead": True}, "remove_dead=False"),
        ({"budget": Budget.channels(0.5)}, r"use unit=Channel\(\) or Head\(\)"),
        ({"budget": Budget.bytes(100)}, r"use unit=Channel\(\) or Head\(\)"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_remedy(options, words):
    with pytest.raises(RecipeError, match=words):
        magnitude(**options)


@pytest.mark.parametrize("method", [activation, methods.geometric_median, methods.slimming])
def test_a_criterion_that_says_nothing_of_readers_is_not_asked_for_them(method):
    with pytest.raises(RecipeError, match=r"says nothing of the members.*use members='outputs'"):
        method(budget=Budget.channels(0.5), unit=Channel(members="inputs"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"round_to": 0}, "round_to >= 1"),
        ({"at_most": 1.5}, "share 0..1"),
        ({"reduce": "median"}, "reduce"),
        ({"members": "rows"}, "known: 'outputs'"),
    ],
)
def test_unknown_options_of_a_unit(options, words):
    with pytest.raises(RecipeError, match=words):
        Channel(**options)


def test_a_recipe_with_units_is_stored_as_plain_data():
    recipe = magnitude(budget=Budget.channels(0.5), unit=Channel(round_to=8, at_most=(("stem.*", 0.5),)))
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe


@pytest.mark.parametrize("options", [{"keep_at_least": 0}, {"allow_collapse": ("*",)}])
def test_what_would_have_no_effect_is_refused(options):
    with pytest.raises(RecipeError, match="always leaves one group of each bundle"):
        magnitude(budget=Budget.channels(0.5), unit=Channel(), **options)
