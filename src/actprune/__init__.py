"""actprune: activation-based pruning of PyTorch networks. Count what fires, prune what does not, prove it."""

from actprune import methods
from actprune.artifact import inspect, load, pack, save
from actprune.compact import Compaction, compact, compaction
from actprune.engine.pruner import Pruner
from actprune.engine.report import PruneReport
from actprune.errors import ActpruneError
from actprune.methods import activation, activation_literal, apoz, magnitude, random, snip, wanda
from actprune.runtime import accelerate
from actprune.state import PruneState
from actprune.types import NM, Block, Budget, Neuron, Progress, Recipe, Weight

__version__ = "0.1.0"

__all__ = [
    "NM",
    "ActpruneError",
    "Block",
    "Budget",
    "Compaction",
    "Neuron",
    "Progress",
    "PruneReport",
    "PruneState",
    "Pruner",
    "Recipe",
    "Weight",
    "__version__",
    "accelerate",
    "activation",
    "activation_literal",
    "apoz",
    "compact",
    "compaction",
    "inspect",
    "load",
    "magnitude",
    "methods",
    "pack",
    "random",
    "save",
    "snip",
    "wanda",
]
