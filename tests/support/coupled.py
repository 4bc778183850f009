"""Small networks whose channels and heads go together, and what is left of them."""

import torch
import torch.nn.functional as F
from torch import nn

from actprune import Pruner
from actprune.accounting import dense_flop
from actprune.structure import outputs


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.a, self.norm = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.b(F.relu(self.norm(self.a(x)))))


class Net(nn.Module):
    """A residual network: 12 channels in its stream, 16 and 8 within its blocks."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.blocks = nn.Sequential(Block(12, 16), Block(12, 8))
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


def residual():
    """A ``Net`` whose norms have weights and biases of their own each."""
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


class Attention(nn.Module):
    """4 heads of width 3, which share 2 pairs of keys and values."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 6), nn.Linear(6, 6)
        self.out = nn.Linear(12, 6)

    def forward(self, x):
        b, t, _ = x.shape
        q = self.q(x).view(b, t, 4, 3).transpose(1, 2)
        k, v = (f(x).view(b, t, 2, 3).transpose(1, 2).repeat_interleave(2, 1) for f in (self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 12))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.up, self.down = Attention(), nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.down(F.gelu(self.up(x)))


def images(count=2):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def sequences():
    return torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))


def pruned(model, recipe, x, **options):
    pruner = Pruner(model, recipe, example=x, **options)
    return pruner, pruner.prune()


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def in_bytes(model):
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def flop(model, x):
    return sum(dense_flop(model, ((x,), {}), len(x)).values())


def assert_equal(model, small, x):
    with torch.no_grad():
        expected, got = outputs(model(x)), outputs(small(x))
    for one, other in zip(expected, got, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
