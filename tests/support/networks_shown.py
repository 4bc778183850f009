"""Networks of a user's own for runs and comparisons on the digits: import strings name them."""

import torch
import torch.nn.functional as F
from torch import nn


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(8, 12), nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.cell(torch.relu(self.first(x.flatten(1).view(-1, 8, 8))))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.position, self.head = nn.Parameter(torch.zeros(1, 8, 16)), nn.Linear(16, 10)

    def forward(self, x):
        x = F.gelu(self.embed(x.flatten(1).view(-1, 8, 8)) + self.position)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return self.head((x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(1))
