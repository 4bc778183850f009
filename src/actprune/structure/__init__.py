"""L2: the structure of any model: what goes together, who reads what, where a norm mixes; from one eager forward."""

from actprune.structure.analysis import Analysis, Mixing, Reader
from actprune.structure.classes import PINNED, Solved
from actprune.structure.cost import Costs, Size
from actprune.structure.exact import Norm, WidthNorm, eps_of, norm_of
from actprune.structure.frames import Frames, Key
from actprune.structure.record import CONVOLUTIONS, Record, Sized, factor, is_cache, mapped, outputs, sized, tensors
from actprune.structure.recorder import Recorder, plainly, record, tables
from actprune.structure.structure import Bundle, Slices, Structure, squared, tensors_of
from actprune.structure.values import Value
from actprune.structure.ways import Inputs, copied, leaves, noise, on_other_ways, unreached

__all__ = [
    "CONVOLUTIONS",
    "PINNED",
    "Analysis",
    "Bundle",
    "Costs",
    "Frames",
    "Inputs",
    "Key",
    "Mixing",
    "Norm",
    "Reader",
    "Record",
    "Recorder",
    "Size",
    "Sized",
    "Slices",
    "Solved",
    "Structure",
    "Value",
    "WidthNorm",
    "copied",
    "eps_of",
    "factor",
    "is_cache",
    "leaves",
    "mapped",
    "noise",
    "norm_of",
    "on_other_ways",
    "outputs",
    "plainly",
    "record",
    "sized",
    "squared",
    "tables",
    "tensors",
    "tensors_of",
    "unreached",
]
