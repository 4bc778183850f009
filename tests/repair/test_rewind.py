"""Recovery after a pruning step: all of it or nothing."""

import copy

import pytest
import torch
from torch import nn

from actprune import Pruner
from actprune.errors import ModelError
from actprune.repair import Reinitialise, RewindRate
from support.engine import net, recipe


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x * self.scale


def test_a_model_that_cannot_be_reinitialised_stays_as_it_was():
    model = nn.Sequential(*net(), nn.Linear(4, 6), Odd())
    before = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, recipe(repairs=(Reinitialise(),)))
    with pytest.raises(ModelError, match="reset_parameters"):
        pruner.prune()
    assert pruner.masks == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_schedule_never_rewinds_into_the_future():
    pruner = Pruner(net(), recipe(repairs=(RewindRate(5),)))
    pruner.prune()
    assert pruner.schedule_step == 0
