"""A small network, plain recipes and one training step, for the tests of the engine."""

from dataclasses import replace

import torch
from torch import nn

from actprune.criteria import Magnitude
from actprune.ranked import Ranked
from actprune.schedules import EqualSurvivors
from actprune.types import Budget

X = torch.linspace(-1, 1, 96).sin().view(16, 6) * torch.linspace(-2, 2, 6)
Y = torch.arange(16) % 4


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def recipe(**changes):
    plain = Ranked(
        name="mine", criterion=Magnitude(), budget=Budget.sparsity(0.5), schedule=EqualSurvivors(3), keep_at_least=0
    )
    return replace(plain, **changes)


def surgery(**changes):
    return recipe(regrow="dense", monotone=False, **changes)


def sgd(model, lr=0.5):
    return torch.optim.SGD(model.parameters(), lr)


def step(model, optimizer):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
