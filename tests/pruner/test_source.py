"""What a criterion is given."""

import torch
from torch import nn

from actprune import Pruner
from actprune.criteria import CounterTimesWeight, MagnitudeOverDeviation
from actprune.pruner.source import view_of
from support.engine import net, recipe


def seen(pruner, name):
    """What the next pruning step is shown of a layer."""
    view = view_of(pruner._prunable, pruner.recipe, pruner._kinds, pruner.state, pruner._collector, last=False)
    return view.layer(name)


def test_a_weight_that_may_return_is_there_for_the_deviation():
    pruner = Pruner(net(), recipe(regrow="free", criterion=MagnitudeOverDeviation()))
    pruner.prune()
    assert seen(pruner, "0.weight").mask is None


def test_an_output_layer_fires_at_its_own_positions():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    pruner = Pruner(model, recipe(criterion=CounterTimesWeight()))
    with pruner.observe():
        model(torch.randn(10, 1, 8, 8))
    assert int(seen(pruner, "3.weight").evidence["fired"]) == 10
