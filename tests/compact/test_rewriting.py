"""Numbers in the model's own code that are made of sizes: what is cut must not change what they mean."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actprune
from actprune import Budget, Channel, Pruner, compact, compaction, magnitude
from actprune.compact.norms import cost

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))


def half(model, x=X, **options):
    """The masked model and the small one."""
    torch.manual_seed(0)
    model = model.eval()
    recipe = magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer")
    pruner = Pruner(model, recipe, example=x, **options)
    pruner.prune()
    return model, compact(model, pruner.state)


def assert_equal(model, small, *inputs):
    with torch.no_grad():
        for x in inputs:
            assert torch.allclose(model(x), small(x), atol=1e-6)


class Scaled(nn.Module):
    """Multiplied by a root of its width, and divided by the number of examples."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.b(x * x.shape[-1] ** -0.5) / len(x)


def test_a_scale_made_of_a_width_stays_what_it_was_and_one_of_the_batch_follows_it():
    model, small = half(Scaled())
    assert small.a.out_features == 4
    assert_equal(model, small, X, torch.randn(5, 6), torch.randn(1, 6))
    assert_equal(model, copy.deepcopy(small), X)


class Response(nn.Module):
    """Global response normalisation over the channels, as in ConvNeXt V2."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        size = x.square().sum(0, keepdim=True).sqrt()
        return self.b(x * (size / (size.mean(-1, keepdim=True) + 1e-6)))


def test_a_mean_over_channels_is_over_as_many_as_there_were():
    model, small = half(Response())
    assert small.a.out_features == 4
    assert_equal(model, small, X, torch.randn(7, 6))


def test_a_mean_over_channels_stays_in_a_program():
    model, _ = half(Response())
    program = actprune.compaction(model, example=X, form="graph").model
    assert_equal(model, program, X)


class Kept(nn.Module):
    """Attention biases that are made once and kept in a plain dict."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
        self.out, self.bias, self.made = nn.Linear(8, 2), nn.Parameter(torch.randn(4, 5, 5)), {}

    def forward(self, x):
        if "bias" not in self.made:
            self.made["bias"] = self.bias.detach() * 2
        q, k, v = (f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        shares = (q @ k.transpose(-1, -2) + self.made["bias"]).softmax(-1)
        return self.out((shares @ v).transpose(1, 2).flatten(2))


def test_a_table_that_the_model_has_kept_is_cut_as_well():
    x = torch.randn(2, 5, 6)
    model, small = half(Kept(), x)
    assert small.bias.shape == (2, 5, 5)
    assert model.made["bias"].shape == (4, 5, 5)
    assert_equal(model, small, x, torch.randn(3, 5, 6))
    assert small.made["bias"].shape == (2, 5, 5)


class Fixed(nn.Module):
    """A table that it does not make itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.made = nn.Linear(6, 8), nn.Linear(8, 2), {"scale": torch.rand(8) + 0.5}

    def forward(self, x):
        return self.b(F.relu(self.a(x)) * self.made["scale"])


def test_a_table_that_the_model_cannot_make_is_cut():
    model, small = half(Fixed())
    assert small.made["scale"].shape == (4,)
    assert model.made["scale"].shape == (8,)
    assert_equal(model, small, X)


class Standardised(nn.Conv2d):
    """Weights with mean 0 and variance 1, as in NFNets: a zero column changes all the others."""

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


def test_columns_of_a_standardised_weight_stay():
    x = torch.randn(2, 3, 4, 4)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), Standardised(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.Flatten()
    )
    model, small = half(model, x)
    assert (small[0].out_channels, small[2].out_channels) == (8, 3)
    assert_equal(model, small, x)


class OneGroup(nn.GroupNorm):
    """A GroupNorm with a forward of its own, as timm has it."""

    def __init__(self, channels):
        super().__init__(1, channels)

    def forward(self, x):
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Shuffled(nn.Module):
    """A norm that is replaced, before a view with numbers in it: the norm's own calls must not be counted."""

    def __init__(self, norm):
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Conv2d(3, 8, 1), norm, nn.Conv2d(8, 6, 1), nn.Linear(6 * 16, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.c(F.relu(self.b(x)).view(x.shape[0], 6 * 16) * 0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("norm", [OneGroup(8), nn.GroupNorm(2, 8)], ids=["of one's own", "GroupNorm"])
def test_calls_behind_a_replaced_norm_are_rewritten_all_the_same(norm):
    x = torch.randn(2, 3, 4, 4)
    model, small = half(Shuffled(norm), x)
    assert (small.a.out_channels, small.b.out_channels) == (4, 3)
    assert type(small.norm).__name__ == "WidthNorm"
    assert_equal(model, small, x, torch.randn(3, 3, 4, 4))
    scripted = torch.jit.trace(small, x)
    assert_equal(scripted, small, x)


@pytest.mark.parametrize("norm", [OneGroup(8), nn.GroupNorm(2, 8)], ids=["of one's own", "GroupNorm"])
def test_what_an_exact_norm_costs_is_measured_and_said(norm):
    x = torch.randn(2, 3, 4, 4)
    torch.manual_seed(0)
    model = copy.deepcopy(Shuffled(norm)).eval()
    pruner = Pruner(model, magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer"), example=x)
    pruner.prune()
    small = compact(model, pruner.state)
    small.norm.register_forward_hook(lambda *_: pytest.fail("a hook of the user's has seen numbers of ours"))
    before = torch.get_rng_state()
    assert cost(small, lambda path: [(2, 4, 4, 4)]) is not None
    assert torch.equal(before, torch.get_rng_state())
    words = r"1 norm divides by a width of before: [\d.]+ ms of a forward.*plain ones \(exact=False.* take [\d.]+ ms"
    assert re.search(words, str(compaction(model, pruner.state).report))
    assert "plain ones" not in str(compaction(model, pruner.state, exact=False).report)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_norm_that_keeps_its_width_can_be_scripted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    model, small = half(model)
    assert type(small[1]).__name__ == "WidthNorm"
    assert_equal(torch.jit.script(small), model, X)


class Blurred(nn.Module):
    """A filter of its own for each channel, by a functional convolution whose groups are an attribute."""

    def __init__(self):
        super().__init__()
        self.channels = 8
        self.register_buffer("filter", torch.rand(8, 1, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.filter, None, 1, 1, 1, groups=self.channels)


def test_groups_of_a_functional_convolution_are_followed():
    x = torch.randn(2, 3, 4, 4)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Blurred(), nn.Conv2d(8, 2, 1), nn.Flatten())
    model, small = half(model, x)
    assert small[0].out_channels == small[2].channels == 4
    assert_equal(model, small, x, torch.randn(3, 3, 4, 4))


class Positions(nn.Module):
    """Tables that are cut to the length of the sequence, as those of BERT, of rotations and of causal masks."""

    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 3)
        self.places = nn.Parameter(torch.randn(20, 8))
        self.register_buffer("ids", torch.arange(20)[None])
        self.register_buffer("lower", torch.ones(20, 20).tril()[None])
        self.table = nn.Embedding(20, 8)

    def forward(self, x):
        length = x.shape[1]
        x = self.embed(x) + self.places[:length] + self.table(self.ids[:, :length])
        x = self.lower[:, :length, :length] @ x
        return self.b(F.relu(self.a(x)))


def test_tables_are_not_cut_to_the_length_of_the_example():
    short, long = (torch.randint(0, 11, (2, length)) for length in (5, 20))
    model, small = half(Positions(), short)
    assert (small.a.out_features, small.embed.embedding_dim) == (6, 4)
    assert small.ids.shape == (1, 20)
    assert small.places.shape == (20, 4)
    assert small.lower.shape == (1, 20, 20)
    assert_equal(model, small, short, long, long[:, :1])


def test_parts_of_a_weight_that_are_sliced_one_by_one_go_all_the_same():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.out = nn.Parameter(torch.randn(16, 6)), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(F.linear(x, self.both[:8]) * torch.sigmoid(F.linear(x, self.both[8:])))

    model, small = half(Packed())
    assert small.both.shape == (8, 6)
    assert_equal(model, small, X)
