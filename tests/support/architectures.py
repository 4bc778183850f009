"""Networks as people write them: convolutions, attention (fused, by hand, PyTorch's own), functions for modules."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class Attention(nn.Module):
    """Four heads of four, by view and transpose."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.o = nn.Linear(width, width)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            one(x).view(batch, length, self.heads, self.size).transpose(1, 2) for one in (self.q, self.k, self.v)
        )
        return self.o(self.mixed(q, k, v).transpose(1, 2).reshape(batch, length, self.heads * self.size))


class ManualAttention(Attention):
    """softmax(q k') v, written out."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-2, -1) / self.size**0.5, -1) @ v


class Transformer(nn.Module):
    """One pre-LayerNorm block: attention and an MLP, each added to what came in."""

    attention: type[nn.Module] = Attention

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attend = nn.LayerNorm(16), self.attention()
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


class ManualHeads(Transformer):
    attention = ManualAttention


class PytorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Heads(Transformer):
    attention = PytorchAttention


class Gather(nn.Module):
    """What a compacted first layer does with the inputs nobody reads."""

    def __init__(self, columns):
        super().__init__()
        self.register_buffer("columns", torch.as_tensor(columns))

    def forward(self, x):
        return x.index_select(1, self.columns)


class Functional(nn.Module):
    """``mlp`` with functions, over the same weights."""

    def __init__(self, source, function=F.relu):
        super().__init__()
        self.a, self.b, self.c, self.function = source[0], source[2], source[4], function

    def forward(self, x):
        return self.c(self.function(self.b(self.function(self.a(x)))))


class ConvNet(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.bn, self.fc, self.inplace = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 2), inplace

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.bn(self.conv(x)), inplace=self.inplace), 2).flatten(1))
