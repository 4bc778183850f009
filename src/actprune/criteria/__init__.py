"""L1: criteria, ``layer -> score``. One idea per file; a score is larger = keep and shaped like the weight."""

from actprune.criteria.alpha import LogAlpha
from actprune.criteria.counter import Counter, CounterTimesWeight
from actprune.criteria.gradient import Fisher, GradientFlow, GradientMagnitude, Saliency, Taylor
from actprune.criteria.learnt import LearntScore
from actprune.criteria.magnitude import Lamp, Magnitude, MagnitudeOverDeviation, MagnitudeWithinSign, Random, Wanda
from actprune.criteria.outliers import Outliers
from actprune.criteria.relative import RelativeImportance
from actprune.criteria.structural import GeometricMedian, NormScale
from actprune.criteria.surgery import Hysteresis, HysteresisOverThreshold
from actprune.criteria.zeros import Apoz

__all__ = [
    "Apoz",
    "Counter",
    "CounterTimesWeight",
    "Fisher",
    "GeometricMedian",
    "GradientFlow",
    "GradientMagnitude",
    "Hysteresis",
    "HysteresisOverThreshold",
    "Lamp",
    "LearntScore",
    "LogAlpha",
    "Magnitude",
    "MagnitudeOverDeviation",
    "MagnitudeWithinSign",
    "NormScale",
    "Outliers",
    "Random",
    "RelativeImportance",
    "Saliency",
    "Taylor",
    "Wanda",
]
