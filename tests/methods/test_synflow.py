"""SynFlow against the published algorithm, written down again here; and what it promises: no layer collapses."""

import pytest
import torch
from torch import nn

from actprune import Pruner, methods
from actprune.errors import ObservationError


def published(model, density, rounds):
    """Algorithm 1 on a chain of Linear and ReLU layers, in plain loops."""
    layers = [module for module in model if isinstance(module, nn.Linear)]
    masks = [torch.ones_like(layer.weight, dtype=torch.bool) for layer in layers]
    for k in range(1, rounds + 1):
        weights = [
            (layer.weight.detach().double().abs() * mask).requires_grad_()
            for layer, mask in zip(layers, masks, strict=True)
        ]
        flow = torch.ones(1, layers[0].in_features, dtype=torch.float64)
        for number, (weight, layer) in enumerate(zip(weights, layers, strict=True)):
            flow = flow @ weight.T + layer.bias.detach().double().abs()
            flow = flow if number == len(layers) - 1 else flow.relu()
        flow.sum().backward()
        scores = torch.cat([(weight.grad * weight.detach()).abs().flatten() for weight in weights])
        kept = scores.numel() - int(scores.numel() * (1 - density ** (k / rounds)) + 0.5)
        cut = scores.sort(descending=True).values[kept - 1]
        masks = [(weight.grad * weight.detach()).abs() >= cut for weight in weights]
    return masks


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10), nn.ReLU(), nn.Linear(10, 5))


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_masks_are_those_of_the_published_algorithm(density):
    model = net()
    expected = published(model, density, rounds=100)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    pruner = Pruner(model, methods.synflow(1 - density, keep_at_least=0), example=torch.zeros(2, 20))
    pruner.prune()
    for (name, mask), wanted in zip(pruner.masks.items(), expected, strict=True):
        assert torch.equal(mask, wanted), name
        assert torch.equal(model.get_parameter(name), before[name] * mask)  # signs are as they were


def test_one_round_collapses_where_a_hundred_do_not():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))
    for rounds, fits in ((1, False), (100, True)):
        pruner = Pruner(model, methods.synflow(0.995, rounds=rounds, keep_at_least=0, allow_collapse=("*",)),
                        example=torch.zeros(1, 100))  # fmt: skip
        copy = {name: parameter.clone() for name, parameter in model.named_parameters()}
        pruner.prune()
        assert all(bool(mask.any()) for mask in pruner.masks.values()) == fits
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(copy[name])


def test_it_needs_no_data_but_the_shape_of_an_input():
    with pytest.raises(ObservationError, match=r"Pruner\(example="):
        Pruner(net(), methods.synflow(0.5)).prune()


def test_batch_norm_and_convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    pruner = Pruner(model, methods.synflow(0.9, rounds=10), example=torch.randn(2, 1, 8, 8))
    report = pruner.prune()
    assert report.actual == pytest.approx(0.9, abs=1e-2)
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert model[0].weight.dtype == torch.float32
