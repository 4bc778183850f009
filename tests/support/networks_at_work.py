"""Networks that need much memory for their inputs: attention over many positions, full-size channels, vocabularies."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Unet(nn.Module):
    """64 channels at the full size of one grey channel, joined with as many that were upsampled."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up = (
            nn.Conv2d(1, 64, 3, padding=1),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Conv2d(128, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(x))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(x, 2))), scale_factor=2.0)
        return self.up(torch.cat([x, deep], 1))


class Scores(nn.Module):
    """Attention by hand: every pair of positions of every head."""

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-2, -1), -1) @ k


class Language(nn.Module):
    """Tokens in, a score for every word of a vocabulary out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(30_000, 16), nn.Linear(16, 30_000)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(F.relu(self.words(tokens)))


class Distances(nn.Module):
    """Every row of one against every row of the other."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a[:, :, None] - b[:, None]).square().sum(-1)


CHECKED = {
    "u-net": lambda: (Unet(), (torch.zeros(8, 1, 512, 512),)),
    "attention": lambda: (Scores(), (torch.zeros(2, 8, 4096, 64), torch.zeros(2, 8, 4096, 64))),
    "vocabulary": lambda: (Language(), (torch.zeros(256, 128, dtype=torch.int64),)),
    "distances": lambda: (Distances(), (torch.zeros(4, 200, 3), torch.zeros(4, 200, 3))),
}
