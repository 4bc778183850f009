"""L1: terms that a method adds to the loss, as frozen parts of a recipe (``Method.penalty``)."""

from actprune.penalties.nuclear import NuclearNorm, direction, factors, shrink
from actprune.penalties.variational import VariationalDropout, divergence, log_alpha, noisy

__all__ = [
    "NuclearNorm",
    "VariationalDropout",
    "direction",
    "divergence",
    "factors",
    "log_alpha",
    "noisy",
    "shrink",
]
