"""L1: evidence: what a method may look at besides the weights, as frozen objects that know how they are collected.

Four kinds, by when they are collected; a kind of your own is a frozen dataclass below one of them:

    OfActivations   summed while data runs through the model       Firing, MeanAbs, OutputMoments, InputMoments, Gram,
                                                                   FiringWhereZero, SmoothActivity
    Gradient(of=)   of the training loss, or of an objective       Gradient, HessianGradient, SquaredGradient
    OfWeights       read off the weights at a pruning step         WeightMoments
    Learnt          trained beside the weights by a penalty        Learnt

Every entry is a SUM, so two of them merge by adding: over batches, over ranks, over a resume (but for
``HessianGradient``, a product, which counts all batches of one ``observe()``).
"""

from actprune.evidence.activations import SHARED, Accumulator, OfActivations, Running, Scratch, merge, rows_of
from actprune.evidence.firing import Firing, FiringWhereZero
from actprune.evidence.gradient import Gradient, HessianGradient, Objective, SquaredGradient
from actprune.evidence.moments import Gram, InputMoments, MeanAbs, OutputMoments, SmoothActivity
from actprune.evidence.weights import Learnt, OfWeights, WeightMoments

__all__ = [
    "SHARED",
    "Accumulator",
    "Firing",
    "FiringWhereZero",
    "Gradient",
    "Gram",
    "HessianGradient",
    "InputMoments",
    "Learnt",
    "MeanAbs",
    "Objective",
    "OfActivations",
    "OfWeights",
    "OutputMoments",
    "Running",
    "Scratch",
    "SmoothActivity",
    "SquaredGradient",
    "WeightMoments",
    "merge",
    "rows_of",
]
