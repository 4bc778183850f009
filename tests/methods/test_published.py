"""The systems of the article's table: golden masks from the published formulas, and what they do while training."""

import math

import pytest
import torch
from torch import nn

import actprune
from actprune import Pruner, methods
from actprune.errors import RecipeError
from actprune.repair import LowerRate, RescaleDropout
from actprune.schedules import EqualSurvivors
from support.engine import net
from support.nets import given
from support.training import stepped

FIRST, SECOND = [[1.0, -2.0], [3.0, 4.0]], [[0.5, -0.1]]


def test_han_cuts_every_layer_at_q_times_its_deviation():
    model = given(FIRST, SECOND)
    pruner = actprune.Pruner(model, methods.han_thresholds(1.0))
    report = pruner.prune()
    # std of 1 -2 3 4 is sqrt(5.25) = 2.29; std of .5 -.1 is .3
    assert pruner.masks["0.weight"].tolist() == [[False, False], [True, True]]
    assert pruner.masks["2.weight"].tolist() == [[True, False]]
    assert report.target == report.actual == 0.5


def test_han_has_one_quality_parameter_per_layer():
    model = given(FIRST, SECOND)
    pruner = actprune.Pruner(model, methods.han_thresholds(1.0, qualities=(("0.*", 0.5),)))
    pruner.prune()
    assert pruner.masks["0.weight"].tolist() == [[False, True], [True, True]]  # threshold 1.15


def test_han_measures_the_deviation_of_the_survivors():
    model = given(FIRST, SECOND)
    pruner = actprune.Pruner(model, methods.han_thresholds(1.0, schedule=EqualSurvivors(2)))
    pruner.prune()
    with torch.no_grad():
        model[0].weight[1].copy_(torch.tensor([1.0, 9.0]))  # their std is 4; with the zeros it would be 3.8
    pruner.prune()
    assert pruner.masks["0.weight"].tolist() == [[False, False], [False, True]]


def test_han_with_a_sparsity_uses_one_q_for_all_layers():
    pruner = actprune.Pruner(given(FIRST, SECOND), methods.han(0.5))
    pruner.prune()
    # |w| / std: .44 .87 1.31 1.75 and 1.67 .33
    assert pruner.masks["0.weight"].tolist() == [[False, False], [True, True]]
    assert pruner.masks["2.weight"].tolist() == [[True, False]]


def test_han_with_densities_per_layer_meets_them_at_their_own_sparsity():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    kept = (("0.*", 0.08), ("2.*", 0.09), ("4.*", 0.26))
    share = (235200 * 0.08 + 30000 * 0.09 + 1000 * 0.26) / 266200
    pruner = actprune.Pruner(model, methods.han(1 - share, kept=kept))
    pruner.prune()
    found = [mask.float().mean().item() for mask in pruner.masks.values()]
    assert found == pytest.approx([0.08, 0.09, 0.26], abs=1e-4)


def test_han_rescales_learning_rate_and_dropout():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8))
    pruner = actprune.Pruner(model, methods.han(0.75))
    assert pruner.lr_scale == 1.0
    pruner.prune()
    assert pruner.lr_scale == 0.1
    assert model[2].p == pytest.approx(0.5 * math.sqrt(0.25))
    again = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8))
    actprune.Pruner(again, methods.han(0.75)).load_state_dict(pruner.state_dict())
    assert again[2].p == model[2].p  # no model stores its dropout rates


def test_deep_compression_is_han_with_sharing():
    ours, theirs = methods.deep_compression(0.9), methods.han(0.9)
    assert ours.criterion == theirs.criterion
    assert dict(ours.sharing.bits)["*"] == 6
    with pytest.raises(RecipeError, match="1 to 8 bits"):
        methods.deep_compression(0.9, bits=(("*", 9),))


# ---- lottery tickets ------------------------------------------------------------------------------------------------


def trained(pruner, model, steps, seed):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        stepped(pruner, model, optimizer, torch.randn(4, 6, generator=generator))
    return optimizer


def small():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10))


def test_a_ticket_has_its_initial_values_and_forgets_momentum():
    model = small()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    pruner = actprune.Pruner(model, methods.lottery(0.75, schedule=EqualSurvivors(2, every=5)))
    optimizer = trained(pruner, model, 5, 0)
    assert pruner.state.pruning_step == 1
    for name, mask in pruner.masks.items():
        assert torch.equal(model.state_dict()[name], start[name] * mask)
    assert torch.equal(model[0].bias, start["0.bias"])
    assert not any(state for state in optimizer.state.values())
    assert pruner.schedule_step == 0


def test_the_output_layer_is_pruned_half_as_fast():
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))
    pruner = actprune.Pruner(model, methods.lottery(0.3, pruning_steps=1), example=torch.zeros(2, 100))
    pruner.prune()
    hidden, output = (1 - mask.float().mean().item() for mask in pruner.masks.values())
    assert hidden + output == pytest.approx(0.6, abs=1e-3)
    assert output == pytest.approx(hidden / 2, abs=0.03)  # p / 2 exactly where both layers together lose p


def test_learning_rate_rewinding_keeps_the_weights():
    model = small()
    pruner = actprune.Pruner(
        model, methods.lottery(0.5, variant="rate", to_step=2, schedule=EqualSurvivors(2, every=5))
    )
    trained(pruner, model, 4, 0)
    before = model[0].weight.clone()
    trained_further = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.detach()
    pruner.attach(trained_further)
    stepped(pruner, model, trained_further, torch.randn(4, 6))
    assert torch.equal(model[0].weight, before * pruner.masks["0.weight"])
    assert pruner.schedule_step == 2


def test_the_control_has_the_same_masks_and_other_weights_of_the_same_distribution():
    found = {}
    for variant in ("ticket", "control"):
        model = small()
        pruner = actprune.Pruner(model, methods.lottery(0.75, variant=variant, schedule=EqualSurvivors(2, every=5)))
        trained(pruner, model, 10, 0)
        found[variant] = {name: mask.clone() for name, mask in pruner.masks.items()}, model[0].weight.clone(), pruner
    assert all(torch.equal(mask, found["control"][0][name]) for name, mask in found["ticket"][0].items())
    mask = found["ticket"][0]["0.weight"]
    assert not torch.equal(found["ticket"][1][mask], found["control"][1][mask])
    start = found["control"][2].state.snapshot["0.weight"]
    assert set(found["control"][1][mask].tolist()) <= set(start.flatten().tolist())


def test_late_rewinding_goes_back_to_the_step():
    model = small()
    pruner = actprune.Pruner(model, methods.lottery(0.5, to_step=3, schedule=EqualSurvivors(1, every=5)))
    trained(pruner, model, 3, 0)
    at_three = model[0].weight.clone()
    pruner.detach()
    trained(pruner, model, 2, 1)
    assert torch.equal(model[0].weight, at_three * pruner.masks["0.weight"])
    assert pruner.schedule_step == 3


# ---- LAMP -----------------------------------------------------------------------------------------------------------


def test_lamp_scores_by_hand():
    model = given([[1.0, 2.0], [3.0, 2.0]], [[0.1, 0.2]])
    pruner = actprune.Pruner(model, methods.lamp(0.5))
    pruner.prune()
    # 1/18  4/17 (both 2s)  9/9  and  .01/.05  .04/.04: the three smallest go
    assert pruner.masks["0.weight"].flatten().sum() + pruner.masks["2.weight"].sum() == 3
    assert not pruner.masks["0.weight"][0, 0]
    assert pruner.masks["2.weight"].tolist() == [[False, True]]
    assert pruner.masks["0.weight"][1, 0]


def test_activation_by_lamp_empties_no_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    pruner = actprune.Pruner(model, methods.activation(0.98, across="lamp", keep_at_least=0, remove_dead=False))
    with pruner.observe():
        model(torch.randn(64, 20))
    pruner.prune()
    assert all(mask.any() for mask in pruner.masks.values())
    with pytest.raises(RecipeError, match="one per neuron"):
        methods.activation(0.5, score="neuron", across="lamp")


def test_recipes_say_what_the_loop_has_to_do():
    assert methods.han(0.9).repairs == (LowerRate(0.1), RescaleDropout())
    with pytest.raises(RecipeError, match="factor above 0"):
        methods.han(0.9, lr_scale=0.0)
    pruner = actprune.Pruner(given(FIRST, SECOND), methods.han_thresholds(1.0))
    with pytest.raises(RecipeError, match="whatever fraction"):
        pruner.prune(0.5)


def test_an_output_layer_that_takes_part_always_fires():
    model = given([[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.1]])
    pruner = actprune.Pruner(model, methods.activation(0.5, across="count", skip_output=False, remove_dead=False))
    with pruner.observe():
        model(torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]))
    pruner.prune()
    # firing x |w|: 4 0 0 1 and 4 * 3, 4 * 0.1; three of six go
    assert pruner.masks["2.weight"].tolist() == [[True, False]]
    assert pruner.masks["0.weight"].sum() + pruner.masks["2.weight"].sum() == 3


def test_an_output_layer_can_be_left_out_by_a_rate_of_zero():
    pruner = Pruner(net(), methods.lottery(0.3, output_rate=0.0, pruning_steps=1))
    pruner.prune()
    assert pruner.masks["2.weight"].all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: methods.lottery(1.0),
        lambda: methods.lottery(1.5),
        lambda: methods.lottery(0.99, pruning_steps=1, output_rate=2.0),
        lambda: methods.han(0.9, kept=(("fc1*", 0.0),)),
        lambda: methods.dns(0.9, band=1.0),
    ],
)
def test_senseless_options_are_recipe_errors(make):
    with pytest.raises(RecipeError):
        make()
