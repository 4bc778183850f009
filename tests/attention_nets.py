"""Attention as people write it: with the fused function, by hand, and with PyTorch's own layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
