"""SparseGPT against the published update, written down again here column by column, on nets and a small transformer."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actprune import NM, Pruner, methods
from actprune.errors import ObservationError, RecipeError


def published(weight, inputs, removed, block=128, damping=0.01, pattern=None):
    """Algorithm 1 of arXiv 2301.00774, float64. inputs (rows, in); removed: weights of the whole matrix that go."""
    w = weight.double().clone()
    h = 2 / len(inputs) * inputs.double().T @ inputs.double()
    idle = h.diagonal() == 0
    h[idle, idle] = 1
    w[:, idle] = 0
    h += damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    out, columns = w.shape
    mask = torch.ones_like(w, dtype=torch.bool)
    for i in range(0, columns, block):
        j = min(i + block, columns)
        if pattern is None:
            count = removed * j // columns - removed * i // columns
            scores = w[:, i:j] ** 2 / u.diagonal()[i:j] ** 2
            low = scores.flatten().argsort()[:count]
            part = mask[:, i:j].reshape(-1)
            part[low] = False
            mask[:, i:j] = part.view(out, j - i)
        for c in range(i, j):
            if pattern is not None and c % pattern.m == 0:
                scores = w[:, c : c + pattern.m] ** 2 / u.diagonal()[c : c + pattern.m] ** 2
                low = scores.argsort(1)[:, : pattern.m - pattern.n]
                mask[:, c : c + pattern.m] = mask[:, c : c + pattern.m].scatter(1, low, False)
            error = torch.where(mask[:, c], 0.0, w[:, c]) / u[c, c]
            for k in range(c, columns):  # lazily in blocks in the paper: the same sum
                w[:, k] -= error * u[c, k]
            w[:, c] = torch.where(mask[:, c], w[:, c], 0.0)
    return mask, w


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).double()


def sequential_reference(model, data, sparsity, pattern=None, block=128):
    """Layer by layer, each on what comes through the layers done before."""
    x, found = data, {}
    for number, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            removed = math.floor(sparsity * layer.weight.numel() + 0.5)
            mask, weight = published(layer.weight.detach(), x, removed, block=block, pattern=pattern)
            found[f"{number}.weight"] = mask, weight
            x = F.linear(x, weight, layer.bias.detach())
        else:
            x = layer(x)
    return found


@pytest.mark.parametrize(("pattern", "block"), [(None, 128), (None, 8), (NM(2, 4), 8)])
def test_masks_and_weights_are_those_of_the_published_update(pattern, block):
    torch.manual_seed(1)
    data = torch.randn(100, 24, dtype=torch.float64)
    data[:, 5] = 0  # an input that is never active
    model = net()
    expected = sequential_reference(net(), data, 0.5, pattern, block)
    pruner = Pruner(model, methods.sparsegpt(0.5, pattern=pattern, block=block))
    with pruner.observe():
        for part in data.split(30):
            model(part)
    pruner.prune()
    for name, (mask, weight) in expected.items():
        assert torch.equal(pruner.masks[name], mask), name
        assert torch.allclose(model.get_parameter(name), weight * mask, atol=1e-9), name


class Block(nn.Module):
    """A transformer block of 16 dimensions with two heads, and a head over 11 tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Linear(16, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x)


@pytest.mark.parametrize("pattern", [None, NM(2, 4)])
def test_a_small_transformer_layer_by_layer(pattern):
    torch.manual_seed(2)
    model = Block().double()
    tokens = torch.randint(0, 11, (12, 9))
    recipe = methods.sparsegpt(0.5, pattern=pattern, skip_output=True)
    pruner = Pruner(model, recipe)
    dense = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        before = model(tokens)
    with pruner.observe():
        model(tokens[:6])
        model(tokens[6:])
    pruner.prune()
    after = model(tokens).detach()
    masks = pruner.masks
    assert list(masks) == ["qkv.weight", "out.weight", "up.weight", "down.weight"]
    # recompute every layer from the dense weights on the inputs that it gets in the pruned model
    for name, mask in masks.items():
        seen = []
        handle = model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0].detach().flatten(0, -2))
        )
        model(tokens)
        handle.remove()
        removed = math.floor(0.5 * mask.numel() + 0.5)
        wanted, weight = published(dense[name], seen[0], removed, pattern=pattern)
        assert torch.equal(mask, wanted), name
        assert torch.allclose(model.get_parameter(name), weight * wanted, atol=1e-8), name
    # and it beats dropping the same number of weights by magnitude, without any update
    plain = Block().double()
    plain.load_state_dict(dense)
    other = Pruner(plain, methods.magnitude(0.5, scope=pattern or "layer", skip_output=True), example=tokens[:2])
    other.prune()
    assert (after - before).square().mean() < (plain(tokens) - before).square().mean()


def test_convolutions_are_matrices_of_their_patches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double()
    images = torch.randn(20, 2, 8, 8, dtype=torch.float64)
    patches = F.unfold(images, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 18)
    mask, weight = published(model[0].weight.detach().flatten(1), patches, 27)
    pruner = Pruner(model, methods.sparsegpt(0.5, skip_output=True))
    with pruner.observe():
        model(images)
    pruner.prune()
    assert torch.equal(pruner.masks["0.weight"].flatten(1), mask)
    assert torch.allclose(model[0].weight.flatten(1), weight * mask, atol=1e-9)


def test_it_says_what_is_missing():
    with pytest.raises(ObservationError, match="run observe"):
        Pruner(net(), methods.sparsegpt(0.5)).prune()
    with pytest.raises(RecipeError, match="no multiple"):
        methods.sparsegpt(0.5, pattern=NM(2, 4), block=6)
    model = net()
    pruner = Pruner(model, methods.sparsegpt(0.7, pattern=NM(2, 4)))
    with pruner.observe():
        model(torch.randn(50, 24, dtype=torch.float64))
    with pytest.raises(RecipeError, match="2:4 pattern removes"):
        pruner.prune()
