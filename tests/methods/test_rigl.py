"""RigL: masks worked out by hand from algorithm 1, and a training in which connections move."""

import math

import pytest
import torch
from torch import nn

from actprune import Pruner, methods
from actprune.edit import Quota, View, pruning_step
from actprune.errors import RecipeError
from actprune.ranked import Grow
from actprune.testing import small_data, small_net
from actprune.types import Layer, Progress

WEIGHT = torch.tensor([[4.0, -1.0, 0.0, 0.0], [0.0, 3.0, -2.0, 0.0]])
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
GRADIENT = torch.tensor([[9.0, -9.0, 0.5, -4.0], [3.0, 9.0, 9.0, 1.0]])


def view(progress, mask=MASK):
    layer = Layer("a.weight", WEIGHT, {"gradient": GRADIENT}, mask=mask, progress=progress)
    return View.of([layer], progress=progress)


def test_the_smallest_weights_go_and_the_largest_gradients_among_the_others_come():
    recipe = methods.rigl(0.5, steps=200, stop=0.5, share=0.5, allocation="uniform")
    # step 50 of 100: f = 0.5 / 2 * (1 + cos(pi / 2)) = 0.25, of 4 kept weights: one. Gone: -1; grown: |gradient| 4
    edit = pruning_step(recipe, view(Progress(50, 1)), Quota(0.5, recipe.budget))
    assert edit.masks["a.weight"].int().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert edit.born["a.weight"].int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    # at the start: f = 0.5, two of them. What was just dropped does not come back, whatever its gradient
    edit = pruning_step(recipe, view(Progress(0, 1)), Quota(0.5, recipe.budget))
    assert edit.masks["a.weight"].int().tolist() == [[1, 0, 0, 1], [1, 1, 0, 0]]


def test_the_share_falls_like_half_a_cosine():
    grow = Grow(methods.rigl().grow.criterion, 0.3, until=100)
    for step in (0, 25, 50, 99, 100, 500):
        t = min(step, 100) / 100
        assert grow.share_at(Progress(step)) == pytest.approx(0.15 * (1 + math.cos(math.pi * t)))


def test_after_t_end_nothing_moves():
    recipe = methods.rigl(0.5, steps=100, stop=1.0, allocation="uniform")
    edit = pruning_step(recipe, view(Progress(100, 1)), Quota(0.5, recipe.budget))
    assert torch.equal(edit.masks["a.weight"], MASK)
    assert not edit.born["a.weight"].any()


def trained(momentum, steps=8):
    model = small_net()
    pruner = Pruner(model, methods.rigl(0.5, steps=10, every=2, share=0.5))
    pruner.prune()  # draws the sparse network: nothing has to be observed for that
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    pruner.attach(optimizer)
    inputs, labels = small_data()
    seen = []
    for _ in range(steps):
        before = {name: mask.clone() for name, mask in pruner.masks.items()}
        gradients = {}
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        gradients = {name: model.get_parameter(name).grad.clone() for name in before}
        optimizer.step()
        seen.append((before, {name: mask.clone() for name, mask in pruner.masks.items()}, gradients, model, optimizer))
    return pruner, seen


def test_connections_move_in_training_and_the_budget_holds():
    pruner, seen = trained(momentum=0.9)
    moved = 0
    for before, after, gradients, _, _ in seen:
        for name, mask in after.items():
            assert int(mask.sum()) == int(before[name].sum())
            born = mask & ~before[name]
            moved += int(born.sum())
            if born.any():  # none of those left out had a larger gradient
                out = ~mask & ~before[name]
                assert (gradients[name][born].abs().min() >= gradients[name][out].abs()).all()
    assert moved > 0
    assert pruner.state.pruning_step == 1 + 4  # the draw, and updates at steps 2, 4, 6 and 8
    assert all(not pruner.model.get_parameter(name)[~mask].any() for name, mask in pruner.masks.items())


def test_a_grown_weight_starts_without_momentum():
    _, seen = trained(momentum=0.9, steps=2)
    before, after, _, model, optimizer = seen[-1]
    for name, mask in after.items():
        born = mask & ~before[name]
        buffer = optimizer.state[model.get_parameter(name)]["momentum_buffer"]
        assert not buffer[born].any()
        assert not model.get_parameter(name)[born].any()
        stayed = mask & before[name]
        assert buffer[stayed].any()


def test_contradictions_are_refused():
    with pytest.raises(RecipeError, match="steps=0"):
        methods.rigl(steps=0)
    with pytest.raises(RecipeError, match="share"):
        methods.rigl(share=1.5)
