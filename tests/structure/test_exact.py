"""Norms over channels of which some are gone: numbers and gradients are those with zeros in their places."""

import pytest
import torch
import torch.nn.functional as F

from actprune.structure import Norm, WidthNorm

LEFT, WIDTH = 6, 10


def wide(norm, x, weight, bias):
    """The norm of before, on zeros where channels are missing."""
    if norm.kind == "group":
        each = x.unflatten(1, (norm.groups, -1))
        missing = (WIDTH - LEFT) // norm.groups
        full = F.pad(each, (0, 0) * (each.dim() - 3) + (0, missing)).flatten(1, 2)
        grown = [F.pad(vector.view(norm.groups, -1), (0, missing)).flatten() for vector in (weight, bias)]
        out = F.group_norm(full, norm.groups, *grown, 1e-5).unflatten(1, (norm.groups, -1))
        return out[:, :, : LEFT // norm.groups].flatten(1, 2)
    x = x.movedim(norm.axis, -1)
    full, weight = F.pad(x, (0, WIDTH - LEFT)), 1 + weight if norm.offset else weight
    if norm.kind == "layer":
        out = F.layer_norm(full, (WIDTH,), eps=1e-5)[..., :LEFT]
    else:
        out = F.rms_norm(full, (WIDTH,), eps=1e-5)[..., :LEFT]
    return (out * weight + bias).movedim(-1, norm.axis)


NORMS = [
    Norm("layer", -1, WIDTH, 1e-5), Norm("layer", 1, WIDTH, 1e-5), Norm("rms", -1, WIDTH, 1e-5),
    Norm("rms", 1, WIDTH, 1e-5, offset=True), Norm("group", 1, WIDTH, 1e-5, groups=2),
]  # fmt: skip


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_what_is_missing_counts_as_zero_forward_and_backward(norm):
    torch.manual_seed(0)
    shape = (2, 3, LEFT) if norm.axis == -1 else (2, LEFT, 3, 2)
    given = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in (shape, LEFT, LEFT)]
    module = WidthNorm(norm, 1e-5)

    def own(x, weight, bias):
        module._parameters["weight"], module._parameters["bias"] = weight, bias
        return module(x)

    def expected(x, weight, bias):
        return wide(norm, x, weight, bias)

    seed = torch.randn(shape, dtype=torch.float64)
    results = [[call(*given), *torch.autograd.grad((call(*given) * seed).sum(), given)] for call in (own, expected)]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1.0, 1000.0), (1e4, 0.0), (0.0, 5.0)])
def test_a_layer_norm_in_float32_is_as_good_as_the_one_with_zeros(scale, offset):
    torch.manual_seed(0)
    x = torch.randn(8, 384) * scale + offset
    full = F.pad(x, (0, 384))
    best = F.layer_norm(full.double(), (768,))[:, :384]
    usual = float((F.layer_norm(full, (768,))[:, :384] - best).abs().max())
    own = float((WidthNorm(Norm("layer", -1, 768, 1e-5), 1e-5)(x) - best).abs().max())
    assert own <= 4 * usual + 1e-7
