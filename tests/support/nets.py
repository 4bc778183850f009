"""Small networks of many kinds, every tensor of them far from its default, so that folding has something to fold."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from actprune.lab.dataset import Dataset
from actprune.lab.models import _lenet5, _mlp
from actprune.lab.resnet import resnet20
from support.architectures import (
    DenseNet,
    FixedView,
    Gated,
    Gather,
    Grouped,
    Heads,
    ManualHeads,
    MobileNet,
    PaddedShortcut,
    Pooled,
    Sequence,
    Shared,
    SqueezeExcite,
    Transformer,
    TwoInputs,
)


@dataclass(frozen=True)
class Net:
    """How to build it, and the shapes of its inputs without the batch axis."""

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]

    def make(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return scrambled(self.build()).eval()

    def inputs(self, batch: int = 3, seed: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(batch, *shape, generator=generator, dtype=dtype) for shape in self.shapes)


@torch.no_grad()
def scrambled(model: nn.Module) -> nn.Module:
    """Biases, affine parameters and running statistics that matter."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.4)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and module.bias is not None:
            module.bias.normal_(0, 0.3)
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_bias is not None:
            module.in_proj_bias.normal_(0, 0.3)
    return model


def _named(shape: tuple[int, ...], classes: int) -> Dataset:
    pair = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64)
    return Dataset("made", pair, pair, pair, classes, shape, "")


def mlp(*widths: int, bias: bool = True) -> nn.Sequential:
    """fc1, relu1, .., fcN after a flatten."""
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    for i, (wide, narrow) in enumerate(pairwise(widths), start=1):
        model.add_module(f"fc{i}", nn.Linear(wide, narrow, bias))
        if i < len(widths) - 1:
            model.add_module(f"relu{i}", nn.ReLU())
    return model


def normed_mlp() -> nn.Sequential:
    """BatchNorm after and before the ReLU."""
    return nn.Sequential(
        nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.BatchNorm1d(12),
        nn.Linear(12, 4),
    )  # fmt: skip


def sparse_mlp(*widths, density=0.3, bias=True, columns=None, seed=0):
    """As initialised, with zeros; ``columns``: of the inputs that are read, as compaction leaves them."""
    torch.manual_seed(seed)
    parts = [nn.Flatten(), *([Gather(columns)] if columns is not None else [])]
    for fan_in, out in pairwise(widths):
        layer = nn.Linear(fan_in, out, bias)
        layer.weight.data *= torch.rand_like(layer.weight) < density
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def drawn_mlp(density=0.2, sizes=(24, 16, 4), seed=0):
    """Normal weights with zeros, whatever the global generator does; no flatten."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for before, after in pairwise(sizes):
        layer = nn.Linear(before, after)
        layer.weight.data = torch.randn(after, before, generator=generator)
        layer.weight.data *= torch.rand(after, before, generator=generator) < density
        layer.bias.data = torch.randn(after, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def tiny_mlp(activation=nn.ReLU):
    """4-5-3-2, unnamed layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3), activation(), nn.Linear(3, 2))


def given(*weights: list[list[float]]) -> nn.Sequential:
    """ReLU net without biases that has these weights; names 0.weight, 2.weight, .."""
    layers: list[nn.Module] = []
    for rows in weights:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(rows))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convnet(channels=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(9 * channels, 5),
    ).eval()  # fmt: skip


NETS = {
    "article": Net(lambda: _mlp(_named((1, 28, 28), 10), (300, 200, 100, 50), 10), ((1, 28, 28),)),
    "lenet-5": Net(lambda: _lenet5(_named((1, 28, 28), 10)), ((1, 28, 28),)),
    "resnet-20": Net(lambda: resnet20((3, 12, 12), 10, width=8), ((3, 12, 12),)),
    "mobilenet": Net(MobileNet, ((3, 12, 12),)),
    "densenet": Net(DenseNet, ((3, 8, 8),)),
    "transformer": Net(Transformer, ((6, 16),)),
    "multihead": Net(Heads, ((6, 16),)),
    "manual attention": Net(ManualHeads, ((6, 16),)),
    "fixed view": Net(FixedView, ((1, 28, 28),)),
    "grouped": Net(Grouped, ((3, 10, 10),)),
    "squeeze": Net(SqueezeExcite, ((3, 8, 8),)),
    "shared": Net(Shared, ((10,),)),
    "gated": Net(Gated, ((10,),)),
    "conv1d": Net(Sequence, ((4, 32),)),
    "padded shortcut": Net(PaddedShortcut, ((3, 8, 8),)),
    "pooled": Net(Pooled, ((2, 16, 16),)),
    "two inputs": Net(TwoInputs, ((1, 6, 6), (7,))),
    "normed mlp": Net(normed_mlp, ((20,),)),
    "no bias": Net(lambda: mlp(12, 20, 16, 4, bias=False), ((12,),)),
}


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A small residual network whose norms have scales of many sizes."""
    model = resnet20(shape, classes, width=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 1.5)
    return model
