"""L1: criteria, ``Signals -> score``. One idea per file; a score is larger = keep and shaped like the weight."""

from actprune.criteria.counter import Counter, CounterTimesWeight
from actprune.criteria.gradient import Snip
from actprune.criteria.magnitude import Magnitude, Random, Wanda
from actprune.criteria.zeros import Apoz

__all__ = ["Apoz", "Counter", "CounterTimesWeight", "Magnitude", "Random", "Snip", "Wanda"]
