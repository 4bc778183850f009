"""L1: criteria, ``Signals -> score``. One idea per file; a score is larger = keep and shaped like the weight."""

from actprune.criteria.alpha import LogAlpha
from actprune.criteria.counter import Counter, CounterTimesWeight
from actprune.criteria.gradient import Snip
from actprune.criteria.magnitude import Lamp, Magnitude, MagnitudeOverDeviation, Random, Wanda
from actprune.criteria.surgery import Hysteresis, HysteresisOverThreshold
from actprune.criteria.zeros import Apoz

__all__ = [
    "Apoz",
    "Counter",
    "CounterTimesWeight",
    "Hysteresis",
    "HysteresisOverThreshold",
    "Lamp",
    "LogAlpha",
    "Magnitude",
    "MagnitudeOverDeviation",
    "Random",
    "Snip",
    "Wanda",
]
