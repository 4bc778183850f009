"""Taylor against equation 8 of the paper, written down again here in plain loops."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from actprune import Pruner, methods


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


def test_pruned_by_steps_of_the_optimizer_from_what_the_step_finds():
    from actprune.schedules import Cubic

    model, data = net(), batches(6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = Cubic(begin=0, end=5, every=1)
    pruner = Pruner(model, methods.taylor(0.5, schedule=schedule), example=data[0][0]).attach(optimizer)
    for x, y in data:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    removed = sum(int((~mask).sum()) for mask in pruner.masks.values())
    total = sum(mask.numel() for mask in pruner.masks.values())
    assert 0.5 <= removed / total <= 0.5 + 96 / total
