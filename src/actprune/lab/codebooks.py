"""L5: few distinct values per tensor, trained: codebook, assignment and the rest of the network together.

Deep Compression fixes which weights share a value before it fine-tunes (``artifact.SharedWeights``). Here every weight
keeps a full-precision latent behind it; each step runs with the nearest centroids, moves the latents by the gradient of
the values they stand for (the straight-through estimator: Bengio, Leonard & Courville 2013, arXiv 1308.3432), and takes
centroids again as the means of what is assigned to them. Zeros stay zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

from actprune.artifact import SharedWeights
from actprune.lab.evaluate import evaluate
from actprune.lab.seeding import epoch_order
from actprune.program import Program

Pair = tuple[Tensor, Tensor]


class Codebooks:
    """Latent weights and fp16-exact centroids of the tensors named in ``bits`` (name to b: at most 2^b values)."""

    def __init__(self, program: Program, bits: Mapping[str, int]) -> None:
        self.program = program
        own = dict(program.named_parameters())
        self.targets = {name: own[name] for name in bits}
        self.kept = {name: target.detach() != 0 for name, target in self.targets.items()}
        self.latents = {name: target.detach()[self.kept[name]].clone() for name, target in self.targets.items()}
        self.centroids = {name: _spread(self.latents[name], 2**width) for name, width in bits.items()}
        self.assigned: dict[str, Tensor] = {}

    def write(self) -> None:
        """Put the nearest centroids into the program."""
        with torch.no_grad():
            for name, latent in self.latents.items():
                table = self.centroids[name]
                middles = (table[1:] + table[:-1]) / 2
                self.assigned[name] = torch.bucketize(latent, middles)
                self.targets[name].masked_scatter_(self.kept[name], table[self.assigned[name]])

    def take_gradients(self) -> None:
        """The gradient of a shared value is that of the latent behind it."""
        for name, latent in self.latents.items():
            gradient = self.targets[name].grad
            latent.grad = None if gradient is None else gradient[self.kept[name]]
            self.targets[name].grad = None

    def settle(self) -> None:
        """Centroids are the means of their latents, as fp16 can hold them; an empty one stays where it was."""
        for name, latent in self.latents.items():
            table, assigned = self.centroids[name], self.assigned[name]
            count = torch.bincount(assigned, minlength=len(table))
            mean = torch.zeros_like(table).index_add_(0, assigned, latent.detach()) / count.clamp_min(1)
            self.centroids[name] = torch.where(count > 0, mean, table).half().float().sort().values


def _spread(values: Tensor, count: int) -> Tensor:
    """Centroids evenly over the range (the best start of three in Deep Compression), then ten rounds of k-means."""
    if not len(values):
        return torch.zeros(1)
    table = torch.linspace(float(values.min()), float(values.max()), min(count, len(torch.unique(values))))
    for _ in range(10):
        assigned = torch.bucketize(values, (table[1:] + table[:-1]) / 2)
        filled = torch.bincount(assigned, minlength=len(table))
        mean = torch.zeros_like(table).index_add_(0, assigned, values) / filled.clamp_min(1)
        table = torch.where(filled > 0, mean, table).sort().values
    return table.half().float()


def fine_tune(
    program: Program,
    bits: Mapping[str, int],
    train: Pair,
    validation: Pair,
    *,
    epochs: int,
    lr: float = 0.02,
    momentum: float = 0.9,
    batch_size: int = 128,
    seed: int = 0,
) -> float:
    """Leave ``program`` with at most 2^b values per named tensor; returns its validation accuracy.

    The learning rate falls to zero along a cosine. Of all epochs, and the state before the first, the one with the best
    validation accuracy is kept.
    """
    books = Codebooks(program, bits)
    optimizer = SGD(list(books.latents.values()), lr=lr, momentum=momentum)
    books.write()
    best, weights = evaluate(program, validation).accuracy, _copied(program)
    for epoch in range(1, epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
        _epoch(books, optimizer, train, torch.split(epoch_order(len(train[0]), seed, epoch), batch_size))
        books.write()
        found = evaluate(program, validation).accuracy
        if found > best:
            best, weights = found, _copied(program)
    program.load_state_dict(weights)
    return best


def train_shared(
    program: Program,
    shared: SharedWeights,
    train: Pair,
    *,
    epochs: int,
    lr: float,
    batch_size: int = 128,
    seed: int = 0,
) -> None:
    """Deep Compression's own fine-tuning: fixed clusters, each moved by the summed gradient of its weights."""
    x, y = train
    optimizer = SGD(program.parameters(), lr=lr)
    with shared.attach(optimizer):
        for epoch in range(1, epochs + 1):
            for chosen in torch.split(epoch_order(len(x), seed, epoch), batch_size):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(program(x.index_select(0, chosen)), y.index_select(0, chosen)))
                optimizer.step()
    shared.apply()


def _epoch(books: Codebooks, optimizer: SGD, train: Pair, batches: tuple[Tensor, ...]) -> None:
    x, y = train
    for chosen in batches:
        books.write()
        loss = F.cross_entropy(books.program(x.index_select(0, chosen)), y.index_select(0, chosen))
        torch.autograd.backward(loss)
        books.take_gradients()
        optimizer.step()
        books.settle()


def _copied(program: Program) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in program.state_dict().items()}
