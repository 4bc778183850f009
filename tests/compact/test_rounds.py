"""A network that is compacted once is one like any other: it is pruned and compacted again, with what stands in it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actprune
from actprune import Budget, Channel, Pruner, magnitude
from actprune.errors import CompactionError


def again(model, x, share=0.5, rounds=2, **options):
    """Prune and compact in rounds; the last masked network, and what was made of it."""
    model = model.eval()
    for _ in range(rounds):
        recipe = magnitude(budget=Budget.channels(share), unit=Channel(**options), scope="layer")
        pruner = Pruner(model, recipe, example=x)
        pruner.prune()
        masked, model = model, actprune.compact(model, pruner.state)
    return masked, model


def assert_equal(model, small, x):
    with torch.no_grad():
        for each in (x, torch.randn(x.shape, generator=torch.Generator().manual_seed(9)).to(x.dtype)):
            assert torch.allclose(model(each), small(each), atol=1e-6)


NORMS = {
    "layer norm": (nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3), (4, 6)),
    "layer norm, plain": (nn.Linear(6, 16), nn.LayerNorm(16, elementwise_affine=False), nn.Linear(16, 3), (4, 6)),
    "rms norm": (nn.Linear(6, 16), nn.RMSNorm(16, eps=1e-6), nn.Linear(16, 3), (4, 6)),
    "group norm": (nn.Conv2d(3, 16, 1), nn.GroupNorm(2, 16), nn.Conv2d(16, 3, 1), (4, 3, 4, 4)),
    "one group": (nn.Conv2d(3, 16, 1), nn.GroupNorm(1, 16), nn.Conv2d(16, 3, 1), (4, 3, 4, 4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_that_keep_their_width_are_cut_once_more(name):
    torch.manual_seed(0)
    first, norm, last, shape = NORMS[name]
    for each in norm.parameters():
        nn.init.uniform_(each, 0.5, 1.5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    model, small = again(nn.Sequential(first, nn.Identity(), norm, last), x)
    assert (len(model[0].weight), len(small[0].weight)) == (8, 4)
    assert_equal(model, small, x)


class Split(nn.Module):
    """Heads whose width is made of the input's: a size that is rewritten on the fly changes with it."""

    def __init__(self, heads=4, width=24):
        super().__init__()
        self.read, self.qkv, self.out = nn.Linear(6, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head, self.heads = nn.Linear(width, 3), heads

    def forward(self, x):
        stream = F.gelu(self.read(x))
        b, t, width = stream.shape
        q, k, v = self.qkv(stream).reshape(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.4).transpose(1, 2)
        return self.head(stream + self.out(mixed.reshape(b, t, width)))


@pytest.mark.parametrize("rounds", [2, 3])
def test_sizes_that_are_rewritten_on_the_fly_are_fitted_anew(rounds):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    model, small = again(Split(), x, share=0.3, rounds=rounds)
    assert_equal(model, small, x)
    assert sum(p.numel() for p in small.parameters()) < 0.75 * sum(p.numel() for p in model.parameters())


class Folded(nn.Module):
    """Its sizes are the caller's: what fits the example need not fit another input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, width):
        return self.b(F.relu(self.a(x)).view(-1, width))


def test_sizes_that_do_not_go_with_the_rewritten_ones_are_told():
    torch.manual_seed(0)
    model, x = Folded().eval(), torch.randn(2, 6)
    pruner = Pruner(model, magnitude(budget=Budget.channels(0.25), unit=Channel()), example=(x, 8))
    pruner.prune()
    small = actprune.compact(model, pruner.state, example=(x, 8))
    assert small.a.out_features == 6
    pruner.enforce()
    with torch.no_grad():
        assert torch.allclose(model(x, 8), small(x, 8), atol=1e-6)
    with pytest.raises(CompactionError, match=r"view\(-1, 7\) stands in code whose sizes compact\(\) has rewritten"):
        small(x, 7)


def test_attention_of_pytorch_is_cut_once_more():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    model, small = again(nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 3)), x)
    assert small[1].self_attn.num_heads == 1
    assert small[0].out_features == 4
    assert_equal(model, small, x)


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=8, padding=1), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x))))).mean((2, 3))


@pytest.mark.parametrize(("whole", "groups", "width"), [(False, 8, 2), (True, 4, 4)])
def test_a_grouped_convolution_loses_channels_of_every_group_or_whole_groups(whole, groups, width):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    model, small = again(Grouped(), x, rounds=1, whole_groups=whole)
    assert (small.b.groups, small.b.in_channels, small.b.weight.shape[1]) == (groups, 16, width)
    assert_equal(model, small, x)
