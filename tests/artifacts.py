"""Small models and a mutation helper for the artifact tests."""

import itertools
import re

import torch
from torch import nn

from actprune.artifact.container import digest
from actprune.program import Program, export


def mlp(density=0.2, sizes=(24, 16, 4), seed=0):
    """A fully connected network of which about ``density`` of the weights are kept."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(sizes):
        layer = nn.Linear(before, after)
        layer.weight.data = torch.randn(after, before, generator=generator)
        layer.weight.data *= torch.rand(after, before, generator=generator) < density
        layer.bias.data = torch.randn(after, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def program(density=0.2, sizes=(24, 16, 4), seed=0) -> Program:
    return export(mlp(density, sizes, seed), torch.zeros(2, sizes[0]))


def resealed(data: bytes) -> bytes:
    """The same bytes with the checksum they should have."""
    found = re.search(rb'"digest":"([^"]{32})"', data)
    if found is None:
        return data
    start = found.start(1)
    blank = data[:start] + b"0" * 32 + data[start + 32 :]
    return data[:start] + digest(blank).encode() + data[start + 32 :]
