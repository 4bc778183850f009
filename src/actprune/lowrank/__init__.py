"""L4: layers as two smaller ones of rank k: what low rank saves, really saved."""

from actprune.lowrank.choose import energy_ranks, largest_rank, ranks_within
from actprune.lowrank.factors import Factors, Kind, factorise
from actprune.lowrank.moments import input_moments
from actprune.lowrank.replace import replace, weights

__all__ = [
    "Factors",
    "Kind",
    "energy_ranks",
    "factorise",
    "input_moments",
    "largest_rank",
    "ranks_within",
    "replace",
    "weights",
]
