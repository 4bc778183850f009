"""actprune: activation-based pruning of PyTorch networks. Count what fires, prune what does not, prove it."""

from actprune import methods
from actprune.engine.pruner import Pruner
from actprune.engine.report import PruneReport
from actprune.errors import ActpruneError
from actprune.methods import activation, activation_literal, apoz, magnitude, random, snip, wanda
from actprune.state import PruneState
from actprune.types import NM, Block, Budget, Neuron, Progress, Recipe, Weight

__version__ = "0.1.0"

__all__ = [
    "NM",
    "ActpruneError",
    "Block",
    "Budget",
    "Neuron",
    "Progress",
    "PruneReport",
    "PruneState",
    "Pruner",
    "Recipe",
    "Weight",
    "__version__",
    "activation",
    "activation_literal",
    "apoz",
    "magnitude",
    "methods",
    "random",
    "snip",
    "wanda",
]
