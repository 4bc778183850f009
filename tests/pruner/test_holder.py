"""Zeros hold between and within optimizer steps, and splicing keeps the dense weights behind the mask."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from actprune import Pruner
from actprune.criteria import Magnitude
from actprune.errors import ActpruneError, RecipeError
from actprune.repair import Rewind
from actprune.schedules import EqualSurvivors
from actprune.types import Budget
from support.engine import X, Y, net, recipe, sgd, step, surgery


def test_splicing_keeps_what_was_trained_after_release():
    model = net()
    pruner, optimizer = Pruner(model, surgery()), sgd(model)
    pruner.attach(optimizer)
    pruner.prune()
    pruner.release()
    for _ in range(3):
        step(model, optimizer)
    trained = model[0].weight.detach().clone()
    pruner.prune()
    kept = pruner.masks["0.weight"]
    assert torch.equal(model[0].weight[kept], trained[kept])


def test_splicing_leaves_kept_weights_to_the_user():
    model = net()
    pruner, optimizer = Pruner(model, surgery()), sgd(model, lr=0.0)
    pruner.attach(optimizer)
    pruner.prune()
    with torch.no_grad():
        model[0].weight.clamp_(-0.1, 0.1)  # a norm constraint, a loaded checkpoint, an update by hand
    step(model, optimizer)
    assert model[0].weight.abs().max() <= 0.1


def test_splicing_remembers_what_recovery_has_put_back():
    model = net()
    first = model[0].weight.detach().clone()
    pruner, optimizer = Pruner(model, surgery(repairs=(Rewind(),))), sgd(model)
    pruner.attach(optimizer)
    for _ in range(3):
        step(model, optimizer)
    pruner.prune()
    assert torch.equal(pruner.masks["0.weight"] * first, model[0].weight)
    assert torch.equal(pruner.state.dense["0.weight"], first)


def test_a_closure_of_a_splicing_step_computes_with_zeros():
    model = net()
    pruner, optimizer = Pruner(model, surgery()), sgd(model)
    pruner.attach(optimizer)
    pruner.prune()
    step(model, optimizer)
    seen = []

    def closure():
        seen.append(bool((model[0].weight[~pruner.masks["0.weight"]] == 0).all()))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    other = net()
    twin, plain = Pruner(other, surgery()), sgd(other)
    twin.attach(plain)
    twin.prune()
    step(other, plain)
    step(other, plain)
    assert optimizer.step(closure) > 0
    assert seen == [True]
    assert torch.equal(model[0].weight, other[0].weight)
    assert torch.equal(pruner.state.dense["0.weight"], twin.state.dense["0.weight"])


def test_zeros_hold_when_a_pruning_fails_within_a_step():
    model = net()
    pruner = Pruner(model, recipe(budget=Budget.sparsity(0.999), schedule=EqualSurvivors(2, every=1)))
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), 0.5, momentum=0.9))
    pruner.prune(0.3)
    step(model, optimizer)
    with pytest.raises(ActpruneError):
        step(model, optimizer)
    assert all(not weight[~pruner.masks[name]].any() for name, weight in pruner.parameters.items())


def test_attach_refuses_before_it_hooks():
    model = net()
    pruner, optimizer = Pruner(model, surgery()), sgd(model)
    with pytest.raises(RecipeError):
        pruner.attach(optimizer, mask_grads=True)
    step(model, optimizer)
    assert pruner.state.step == 0


def test_a_pruning_step_inside_a_step_sees_zeros_where_something_is_pruned():
    """Not what the optimizer has just written there."""
    seen = []

    @dataclass(frozen=True)
    class Noting(Magnitude):
        def score(self, layer):
            if layer.mask is not None:
                seen.append(bool(layer.weight[~layer.mask].any()))
            return super().score(layer)

    model = net()
    pruner = Pruner(model, recipe(criterion=Noting(), schedule=EqualSurvivors(3, every=1)))
    pruner.attach(optimizer := sgd(model))
    for _ in range(3):
        step(model, optimizer)
    assert seen
    assert not any(seen)
