"""L2: repairs: what happens to the weights after a pruning step has chosen its masks. Each is ``(view, edit) -> edit``.

A method lists them in ``repairs``, in the order in which they are done; an empty list goes on from the values at hand
(Han et al. 2015; the founding method).
"""

from actprune.repair.dead import RemoveDead
from actprune.repair.rates import LowerRate, RescaleDropout
from actprune.repair.rewind import Reinitialise, Reshuffle, Rewind, RewindRate

__all__ = ["LowerRate", "Reinitialise", "RemoveDead", "RescaleDropout", "Reshuffle", "Rewind", "RewindRate"]
