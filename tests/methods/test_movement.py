"""Movement pruning against a straight-through layer written by hand."""

import torch
from torch import nn
from torch.nn import functional as F

from actprune import Pruner, methods
from actprune.rank.allocate import allocate
from actprune.schedules import Cubic
from actprune.scopes import Share
from actprune.testing import small_data, small_net


class TopV(torch.autograd.Function):
    """M = the highest scores; its gradient goes straight through to the scores."""

    @staticmethod
    def forward(ctx, scores, kept):
        mask = torch.zeros_like(scores)
        mask.view(-1)[scores.flatten().argsort(descending=True)[:kept]] = 1.0
        return mask

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def smooth_net():
    """Without neurons that never fire: their scores are all 0, and which of them stay is the tie key's choice."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)
    )


def reference(model, lr, steps, kept_at):
    """W' = W * topv(S) with autograd through both; SGD on everything. kept_at(step, size) -> v."""
    params = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    scores = {name: torch.zeros_like(p, requires_grad=True) for name, p in params.items() if name.endswith("weight")}
    inputs, labels = small_data()
    for step in range(steps):
        x = inputs
        for number in (0, 2, 4, 6):
            name = f"{number}.weight"
            mask = TopV.apply(scores[name], kept_at(step, scores[name].numel()))
            x = F.linear(x, params[name] * mask, params[f"{number}.bias"])
            x = x if number == 6 else x.tanh()
        loss = F.cross_entropy(x, labels)
        everything = [*params.values(), *scores.values()]
        for value, gradient in zip(everything, torch.autograd.grad(loss, everything), strict=True):
            value.data -= lr * gradient
    return params, scores


def test_scores_weights_and_masks_are_those_of_straight_through_training():
    steps, lr = 12, 0.1
    schedule = Cubic(2, 8, 1)
    model = smooth_net()

    sizes = [768, 384, 128, 32]
    shares = [Share(str(size), (size, 1), size, 0, size) for size in sizes]

    def kept_at(step, size):
        """The mask that optimizer step number ``step`` computes with: v of the cubic curve, from 2 to 8."""
        done = min(max(step - 2, 0), 6) / 6
        removed = allocate("uniform", shares, int(0.6 * (1 - (1 - done) ** 3) * sum(sizes) + 0.5))
        return size - removed[sizes.index(size)]

    pruner = Pruner(model, methods.movement(0.6, schedule=schedule))
    # after the last pruning step the scores are trained no longer, so compare up to there
    optimizer = torch.optim.SGD([*model.parameters(), *pruner.extra_parameters()], lr=lr)
    pruner.attach(optimizer)
    inputs, labels = small_data()
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        if step == 7:
            at_last = {name: own["movement"].detach().clone() for name, own in pruner.state.learnt.items()}
    _, scores = reference(smooth_net(), lr, 8, kept_at)
    for name, score in scores.items():
        assert torch.allclose(at_last[name], score.detach(), atol=1e-6), name
        size = score.numel()
        mask = TopV.apply(score.detach(), kept_at(8, size)).bool()
        assert torch.equal(pruner.masks[name], mask), name


def test_what_is_behind_the_mask_stays_and_comes_back():
    model = small_net()
    pruner = Pruner(model, methods.movement(0.5, schedule=Cubic(0, 4, 2)))
    optimizer = torch.optim.SGD(
        [{"params": model.parameters()}, {"params": pruner.extra_parameters(), "weight_decay": 0.0}],
        lr=0.05, momentum=0.9, weight_decay=0.1,
    )  # fmt: skip
    pruner.attach(optimizer)
    inputs, labels = small_data()
    kept_values = None
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        if step == 1:
            kept_values = {name: value.clone() for name, value in pruner.state.dense.items()}
    for name, mask in pruner.masks.items():
        assert not model.get_parameter(name)[~mask].any()
        assert torch.equal(pruner.state.dense[name][~mask], kept_values[name][~mask])
        assert kept_values[name][~mask].any()


def test_scores_sum_the_movement_away_from_zero():
    """One layer, one step: S = -lr * dL/dW * W."""
    layer = nn.Linear(3, 2, bias=False)
    model = nn.Sequential(layer)
    pruner = Pruner(model, methods.movement(0.5, schedule=Cubic(10, 20, 10)))
    optimizer = torch.optim.SGD([*model.parameters(), *pruner.extra_parameters()], lr=0.5)
    pruner.attach(optimizer)
    weight = layer.weight.detach().clone()
    x = torch.tensor([[1.0, -2.0, 3.0]])
    model(x).sum().backward()
    gradient = layer.weight.grad.clone()
    optimizer.step()
    assert torch.allclose(pruner.state.learnt["0.weight"]["movement"], -0.5 * gradient * weight)
