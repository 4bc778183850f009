"""``nn.MultiheadAttention`` that has lost heads and width: PyTorch's numbers, and TorchScript."""

import copy

import pytest
import torch
from torch import nn

from actprune import Budget, Channel, Pruner, compact, magnitude

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))


class Attending(nn.Module):
    """Attention behind a projection, or two of them (``apart``)."""

    def __init__(self, **options):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(8, 12)
        sizes = {"kdim": 12, "vdim": 12} if options.pop("apart", False) else {}
        self.apart = bool(sizes)
        self.attend = nn.MultiheadAttention(16, 4, **sizes, **options)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.a(x)
        k = self.b(x) if self.apart else q
        return self.head(self.attend(q, k, k)[0])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.encoder = nn.Linear(8, 16), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.a(x)).mean(1))


def half(model):
    pruner = Pruner(model, magnitude(budget=Budget.channels(0.5), unit=Channel(), scope="layer"), example=X)
    pruner.prune()
    return compact(model, pruner.state)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [{"batch_first": True}, {"batch_first": False}, {"batch_first": True, "bias": False}, {"apart": True}],
    ids=str,
)
def test_an_attention_that_lost_half_of_all_is_the_masked_one_and_can_be_scripted(options):
    torch.manual_seed(0)
    model = Attending(**options).eval()
    small = half(model)
    assert small.attend.num_heads == 2
    assert small.a.out_features == 8
    assert type(small.attend).__name__ == "WidthAttention"
    with torch.no_grad():
        torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.jit.script(small)(X), small(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_encoder_layer_can_be_scripted_before_and_after():
    torch.manual_seed(0)
    model = Encoder().eval()
    torch.jit.script(copy.deepcopy(model))
    small = half(model)
    with torch.no_grad():
        torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.jit.script(small)(X), small(X))


@pytest.mark.parametrize("single", [False, True])
def test_masks_and_weights_are_as_pytorch_has_them(single):
    """The same module, called as PyTorch's own and as ours."""
    torch.manual_seed(0)
    own = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    ours = copy.deepcopy(own)
    from actprune.compact.attention import WidthAttention

    ours.__class__ = WidthAttention
    x = torch.randn(5, 16) if single else torch.randn(2, 5, 16)
    padding = torch.zeros(x.shape[:-1], dtype=torch.bool)
    padding[..., -1] = True
    ahead = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    per_head = torch.randn(4 if single else 8, 5, 5)
    calls = [
        {}, {"key_padding_mask": padding}, {"attn_mask": ahead}, {"attn_mask": per_head}, {"need_weights": False},
        {"attn_mask": ahead, "key_padding_mask": padding, "average_attn_weights": False},
    ]  # fmt: skip
    for options in calls:
        expected, got = own(x, x, x, **options), ours(x, x, x, **options)
        torch.testing.assert_close(got[0], expected[0])
        if options.get("need_weights", True):
            torch.testing.assert_close(got[1], expected[1])
        else:
            assert got[1] is None
