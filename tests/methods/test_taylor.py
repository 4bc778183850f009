"""Taylor against equation 8 of the paper, written down again here in plain loops."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from actprune import Pruner, methods
from actprune.schedules import Cubic


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def batches(count):
    torch.manual_seed(7)
    return [(torch.randn(8, 1, 6, 6), torch.randint(3, (8,))) for _ in range(count)]


def importances(model, data):
    """(sum over the unit of g w)^2 of every hidden unit; g is the gradient summed over the batches."""
    total = sum(functional.cross_entropy(model(x), y) for x, y in data)
    found = []
    for number in (0, 3):
        weight = model[number].weight
        gradient = torch.autograd.grad(total, weight, retain_graph=True)[0]
        for unit in range(len(weight)):
            change = 0.0
            for g, w in zip(gradient[unit].flatten().tolist(), weight[unit].flatten().tolist(), strict=True):
                change += g * w
            found.append((change**2, number, unit, weight[unit].numel()))
    return sorted(found)


@pytest.mark.parametrize("count", [1, 3])
def test_the_units_with_the_least_importance_go(count):
    model, data = net(), batches(count)
    ranked = importances(model, data)
    quarter = 0.25 * sum(weights for *_, weights in ranked)
    gone, removed = set(), 0
    for _, number, unit, weights in ranked:
        if removed >= quarter:
            break
        gone.add((number, unit))
        removed += weights
    pruner = Pruner(model, methods.taylor(0.25), example=data[0][0])
    with pruner.observe():
        for x, y in data:
            functional.cross_entropy(model(x), y).backward()
    pruner.prune()
    rows = {(n, u): pruner.masks[f"{n}.weight"][u].flatten() for n in (0, 3) for u in range(len(model[n].weight))}
    assert {unit for unit, row in rows.items() if not row.any()} == gone
    assert all(row.all() for unit, row in rows.items() if unit not in gone)
    assert "5.weight" not in pruner.masks  # the output layer is left alone


def removed_by(weights, gradients, kept, count):
    """Kept units after the least important went, until ``count`` weights are gone; what is gone costs nothing."""
    found = []
    for name, weight in weights.items():
        for unit in range(len(weight)):
            if kept[name][unit]:
                g, w = gradients[name][unit].flatten().tolist(), weight[unit].flatten().tolist()
                change = sum(one * other for one, other in zip(g, w, strict=True))
                found.append((change**2, name, unit))
    after = {name: list(row) for name, row in kept.items()}
    gone = sum(weights[name][0].numel() * row.count(False) for name, row in kept.items())
    for _, name, unit in sorted(found):
        if gone >= count:
            break
        after[name][unit] = False
        gone += weights[name][0].numel()
    return after


def test_steps_of_the_optimizer_prune_by_the_gradient_they_find():
    """Cubic, plain SGD: the gradient is the one before the update, the weights are those behind it."""
    lr, steps, final = 0.5, 4, 0.5
    model, data = net(), batches(steps)
    pruner = Pruner(model, methods.taylor(final, schedule=Cubic(0, steps, 1)), example=data[0][0])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    pruner.attach(optimizer)
    names = ("0.weight", "3.weight")
    total = sum(model.get_parameter(name).numel() for name in names)
    kept = {name: [True] * len(model.get_parameter(name)) for name in names}
    told_apart = False
    for step, (x, y) in enumerate(data, 1):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        gradients = {name: model.get_parameter(name).grad.clone() for name in names}
        before = {name: model.get_parameter(name).detach().clone() for name in names}
        behind = {name: before[name] - lr * gradients[name] for name in names}
        count = math.floor(final * (1 - (1 - step / steps) ** 3) * total + 0.5)
        told_apart |= removed_by(before, gradients, kept, count) != removed_by(behind, gradients, kept, count)
        kept = removed_by(behind, gradients, kept, count)
        optimizer.step()
        assert {name: pruner.masks[name].flatten(1).all(1).tolist() for name in names} == kept, step
        assert all(torch.equal(m.flatten(1).any(1), m.flatten(1).all(1)) for m in pruner.masks.values())
    assert told_apart  # or the data could not say which weights were taken
    assert pruner.state.pruning_step == steps
