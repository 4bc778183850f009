"""Penalties at work: what proximal steps see, and whom noise is for."""

import copy
import io
from dataclasses import dataclass

import torch
from torch import nn

from actprune import Pruner, methods
from actprune.types import Penalty
from support.engine import X, net, recipe, sgd, step

SEEN = []


@dataclass(frozen=True)
class Watching(Penalty):
    """A penalty that writes down what its proximal steps see."""

    def after_step(self, weights, step):
        SEEN.append({name: weight.clone() for name, weight in weights.items()})


def test_a_proximal_step_sees_zeros_and_leaves_frozen_weights_alone():
    model = net()
    model[2].weight.requires_grad_(False)
    pruner, optimizer = Pruner(model, recipe(penalty=Watching()), include_frozen=True), sgd(model)
    pruner.attach(optimizer)
    pruner.prune(0.5)
    step(model, optimizer)
    seen = SEEN[-1]
    assert list(seen) == ["0.weight"]
    assert not seen["0.weight"][~pruner.masks["0.weight"]].any()


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(input=self.one(x).relu())


def test_noise_is_for_the_model_itself_however_it_calls_its_layers():
    model = ByName()
    Pruner(model, methods.variational_dropout(0.5, examples=10, steps=2))
    assert not torch.equal(model(X), model(X))
    twin = copy.deepcopy(model)  # an EMA, a student: not what the penalty learns about
    assert torch.equal(twin(X), twin(X))
    torch.save(model, io.BytesIO())
