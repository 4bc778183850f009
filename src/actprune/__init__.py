"""actprune: activation-based pruning of PyTorch networks. Count what fires, prune what does not, prove it."""

from actprune import criteria, evidence, methods, penalties, repair, schedules
from actprune.artifact import inspect, load, pack, save
from actprune.compact import Compaction, compact, compaction
from actprune.coupled import Channel, Head
from actprune.edit import Edit, Method, Quota, View
from actprune.errors import ActpruneError
from actprune.methods import activation, activation_literal, apoz, magnitude, random, snip, wanda
from actprune.pruner.pruner import Pruner
from actprune.pruner.report import PruneReport
from actprune.rank.units import Block, Neuron, Weight
from actprune.ranked import Grow, Ranked
from actprune.runtime import accelerate, beside
from actprune.scopes import NM
from actprune.state import PruneState
from actprune.types import Budget, Progress

__version__ = "0.1.0"

__all__ = [
    "NM",
    "ActpruneError",
    "Block",
    "Budget",
    "Channel",
    "Compaction",
    "Edit",
    "Grow",
    "Head",
    "Method",
    "Neuron",
    "Progress",
    "PruneReport",
    "PruneState",
    "Pruner",
    "Quota",
    "Ranked",
    "View",
    "Weight",
    "__version__",
    "accelerate",
    "activation",
    "activation_literal",
    "apoz",
    "beside",
    "compact",
    "compaction",
    "criteria",
    "evidence",
    "inspect",
    "load",
    "magnitude",
    "methods",
    "pack",
    "penalties",
    "random",
    "repair",
    "save",
    "schedules",
    "snip",
    "wanda",
]
