"""L5: early stopping as the founding article's code does it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Patience:
    """Validation losses seen so far. A *tick* is a loss above 1.1 x the best and above that of the previous epoch; any
    loss below 1.1 x the best clears the ticks; three ticks stop the run.

    Source: the code of Ganguli & Chong 2024 (delta 0.1, patience 3). ``seen`` returns a new value; nothing is mutable.
    """

    best: float = math.inf
    previous: float = math.inf
    ticks: int = 0
    delta: float = 0.1

    def seen(self, loss: float) -> Patience:
        """After one more epoch with this validation loss."""
        bar = (1 + self.delta) * self.best
        ticks = self.ticks
        if loss > bar and loss > self.previous:
            ticks += 1
        elif loss < bar:
            ticks = 0
        return replace(self, best=min(self.best, loss), previous=loss, ticks=ticks)
