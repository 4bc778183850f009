"""L5: ResNet-20 for small images (He et al., 2016, https://arxiv.org/abs/1512.03385, section 4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from actprune.errors import ModelError

__all__ = ["resnet20"]

_BLOCKS = 3  # per stage: 2 * 3 * 3 convolutions, the first one and the last layer make 20


class _Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), the shortcut a 1x1 convolution with BatchNorm or nothing."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if (before, stride) != (width, 1):
            self.shortcut = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(before, width, 1, stride, bias=False), bn=nn.BatchNorm2d(width))
            )
        self.relu2 = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        """``(N, before, H, W)`` to ``(N, width, ceil(H / stride), ceil(W / stride))``."""
        inner = self.relu1(self.bn1(self.conv1(input)))
        out: Tensor = self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(input))
        return out


def resnet20(shape: Sequence[int], classes: int, width: int = 16) -> nn.Module:
    """Three stages of three blocks with ``width``, then twice, then four times as many channels, for ``(C, H, W)``.

    Where the shape changes the shortcut is a 1x1 convolution with BatchNorm (option B of the paper). Weights of the
    convolutions start as in the paper (He et al., 2015: normal, by the number of outputs). With 3x32x32 images and 10
    classes it has 272,474 parameters.

    Raises ModelError for shapes that are no image's and widths below 1.
    """
    if len(shape) != 3 or width < 1:
        raise ModelError(f"resnet20(shape={tuple(shape)}, width={width}); expected a shape (C, H, W) and width >= 1")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(shape[0], width, 3, 1, 1, bias=False), bn=nn.BatchNorm2d(width), relu=nn.ReLU()
    )
    before = width
    for stage in range(3):
        after = width * 2**stage
        for block in range(_BLOCKS):
            layers[f"stage{stage + 1}_{block + 1}"] = _Block(before, after, 2 if stage and not block else 1)
            before = after
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
