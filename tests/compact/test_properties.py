"""Random small networks with random masks: the same outputs, never more parameters, and nothing left to remove."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune.compact import compaction
from support.compaction import gap, masked_copy, shapes, size
from support.nets import mlp, scrambled

ACTIVATIONS = [F.relu, torch.sigmoid, F.gelu, torch.tanh, F.silu]


class Random(nn.Module):
    """Convolutions (some depthwise or grouped, some with BatchNorm and residual sums), then Linears."""

    def __init__(self, plan, activation):
        super().__init__()
        self.convs, self.norms, self.plan, self.activation = nn.ModuleList(), nn.ModuleList(), plan, activation
        before = 2
        for width, kind, padding in plan:
            after = before if kind in ("depthwise", "residual") else width
            groups = before if kind == "depthwise" else 2 if kind == "grouped" and before % 2 == after % 2 == 0 else 1
            edge = 1 if kind == "residual" else padding
            self.convs.append(nn.Conv2d(before, after, 3, padding=edge, groups=groups, bias=kind != "plain"))
            self.norms.append(nn.BatchNorm2d(after) if kind in ("normed", "residual") else nn.Identity())
            before = after
        self.fc1, self.fc2 = nn.Linear(before, 5), nn.Linear(5, 3)

    def forward(self, x):
        for conv, norm, (_, kind, _) in zip(self.convs, self.norms, self.plan, strict=True):
            out = norm(conv(x))
            x = self.activation(out + x if kind == "residual" else out)
        return self.fc2(self.activation(self.fc1(x.mean((2, 3)))))


def drawn_masks(model, draw_seed, sparsity, structured):
    generator = torch.Generator().manual_seed(draw_seed)
    masks = {}
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            shape = (len(weight), *[1] * (weight.dim() - 1)) if structured else weight.shape
            masks[name] = (torch.rand(shape, generator=generator) >= sparsity).expand(weight.shape)
    return masks


def check(model, shape, masks, form):
    inputs = (torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)),)
    others = (torch.randn(6, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)
    result = compaction(model, masks, example=inputs, form=form)
    assert gap(masked_copy(model, masks), result.model, others) <= 1e-5
    made = sum(p.numel() for name, p in result.model.named_parameters() if name not in dict(model.named_parameters()))
    assert size(result.model) - made <= size(model)
    before = model
    while kinds(before) != kinds(result.model):  # grouped to depthwise or plain: its channels no longer go together
        before, result = result.model, compaction(result.model, example=inputs, form=form)
    again = compaction(result.model, example=inputs, form=form)
    assert shapes(again.model) == shapes(result.model)


def kinds(model):
    """Which convolutions are plain, depthwise or grouped; a call can only go down this list, so the loop ends."""
    convs = {path: module for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    return {path: (conv.groups > 1) + (conv.groups > 1 and conv.weight.shape[1] > 1) for path, conv in convs.items()}


SETTINGS = settings(max_examples=10, deadline=None, derandomize=True)
COMMON = {
    "seed": st.integers(0, 2**31),
    "sparsity": st.sampled_from([0.3, 0.7, 0.9, 0.97, 1.0]),
    "structured": st.booleans(),
    "form": st.sampled_from(["module", "graph"]),
}


@SETTINGS
@given(widths=st.lists(st.integers(1, 9), min_size=2, max_size=5), bias=st.booleans(), **COMMON)
def test_multilayer_perceptrons(widths, bias, seed, sparsity, structured, form):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = scrambled(mlp(*widths, bias=bias)).eval()
    check(model, (widths[0],), drawn_masks(model, seed, sparsity, structured), form)


LAYER = st.tuples(
    st.integers(1, 6),
    st.sampled_from(["plain", "biased", "normed", "depthwise", "grouped", "residual"]),
    st.sampled_from([0, 1]),
)


@SETTINGS
@given(plan=st.lists(LAYER, min_size=1, max_size=3), activation=st.sampled_from(ACTIVATIONS), **COMMON)
def test_convolutional_networks(plan, activation, seed, sparsity, structured, form):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = scrambled(Random(plan, activation)).eval()
    check(model, (2, 9, 9), drawn_masks(model, seed, sparsity, structured), form)
