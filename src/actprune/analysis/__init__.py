"""L1: tensors -> numbers: ranks, singular values, FLOP, sparsity, surviving weights. Nothing here changes a model."""

from actprune.analysis.cost import Flop, compression, flop, kept, sparsity, survival
from actprune.analysis.ranks import Ranks, effective_rank, matrix, numerical_rank, ranks, stable_rank
from actprune.analysis.shrinkage import Fit, Interval, fit_penalties, interval, slope, verdict
from actprune.analysis.spectra import Change, ranks_of, relative_change, singular_values

__all__ = [
    "Change",
    "Fit",
    "Flop",
    "Interval",
    "Ranks",
    "compression",
    "effective_rank",
    "fit_penalties",
    "flop",
    "interval",
    "kept",
    "matrix",
    "numerical_rank",
    "ranks",
    "ranks_of",
    "relative_change",
    "singular_values",
    "slope",
    "sparsity",
    "stable_rank",
    "survival",
    "verdict",
]
