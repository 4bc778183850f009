"""L1: tensors -> numbers: ranks, FLOP, sparsity, surviving weights. Nothing here changes a model."""

from actprune.analysis.cost import Flop, compression, flop, kept, sparsity, survival
from actprune.analysis.ranks import Ranks, effective_rank, matrix, numerical_rank, ranks, stable_rank

__all__ = [
    "Flop",
    "Ranks",
    "compression",
    "effective_rank",
    "flop",
    "kept",
    "matrix",
    "numerical_rank",
    "ranks",
    "sparsity",
    "stable_rank",
    "survival",
]
