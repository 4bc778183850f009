"""Small networks of many kinds, every tensor of them far from its default, so that folding has something to fold."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actprune.lab.dataset import Dataset
from actprune.lab.models import _lenet5, _mlp
from actprune.lab.resnet import resnet20
from attention_nets import Heads, ManualHeads, Transformer


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


def conv_bn(before: int, after: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)
    )


class MobileNet(nn.Module):
    """Depthwise-separable blocks with stride and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.depth1, self.point1 = conv_bn(8, 8, stride=2, groups=8), conv_bn(8, 12, 1)
        self.depth2, self.point2 = conv_bn(12, 12, groups=12), conv_bn(12, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for part in (self.stem, self.depth1, self.point1, self.depth2, self.point2):
            x = F.relu6(part(x))
        return self.fc(x.mean((2, 3)))


class DenseNet(nn.Module):
    """Every layer reads all before it; a 1x1 transition with average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(10), nn.Conv2d(10, 4, 3, padding=1, bias=False)
        self.bn3, self.trans = nn.BatchNorm2d(14), nn.Conv2d(14, 8, 1, bias=False)
        self.bn4, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.bn2(x)))], 1)
        x = F.avg_pool2d(self.trans(F.relu(self.bn3(x))), 2)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.bn4(x)), 1), 1))


class FixedView(nn.Module):
    """LeNet-5-like code with the number of features written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 24), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 800))))


class Grouped(nn.Module):
    """A grouped convolution between ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, groups=4), nn.BatchNorm2d(8)
        self.conv3, self.fc = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(F.relu(self.conv3(x)).mean((-1, -2)))


class SqueezeExcite(nn.Module):
    """Channels scaled by a small network that looks at all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.conv2, self.fc = nn.Conv2d(12, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(self.conv1(x)))
        scale = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc(F.relu(self.conv2(x * scale)).mean((2, 3)))


class Shared(nn.Module):
    """One Linear called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.again, self.fc2 = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        return self.fc2(F.relu(self.again(F.relu(self.again(x)))))


class Gated(nn.Module):
    """GLU by chunk, and a split of unequal parts."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(10, 24), nn.Linear(12, 20)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, -1)
        left, right = torch.split(F.gelu(self.fc2(value * torch.sigmoid(gate))), [8, 12], -1)
        return self.left(left) - self.right(right)


class Sequence(nn.Module):
    """Convolutions over time, with dilation and stride."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(4, 10, 3, padding=1), nn.BatchNorm1d(10)
        self.conv2, self.conv3 = nn.Conv1d(10, 12, 3, stride=2), nn.Conv1d(12, 6, 3, dilation=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.elu(self.conv3(F.leaky_relu(self.conv2(x))))
        return self.fc(F.adaptive_avg_pool1d(x, 1).flatten(1))


class PaddedShortcut(nn.Module):
    """ResNet's option A: a shortcut without weights that is padded with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv1, self.bn1 = nn.Conv2d(6, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = F.relu(inner + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Pooled(nn.Module):
    """Average pooling that counts its zero padding: a constant does not stay one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.conv1(x)), 3, 2, 1)
        x = F.avg_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.mean((2, 3)))


class TwoInputs(nn.Module):
    """An image and some features, which meet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3, bias=False), nn.Linear(7, 6)
        self.meet, self.out = nn.Linear(12, 10, bias=False), nn.Linear(10, 3)

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        seen = F.relu(self.conv(image)).amax((2, 3))
        return self.out(torch.tanh(self.meet(torch.cat([seen, F.relu(self.fc(features))], 1))))


def _named(shape: tuple[int, ...], classes: int) -> Dataset:
    pair = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64)
    return Dataset("made", pair, pair, pair, classes, shape, "")


def mlp(*widths: int, bias: bool = True) -> nn.Sequential:
    """fc1, relu1, .., fcN after a flatten."""
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    for i, (wide, narrow) in enumerate(itertools.pairwise(widths), start=1):
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
