"""L5: many methods, one budget: the same data split, network, training and seeds for everyone, one tidy file."""

from actprune.lab.compare.cells import Cell, cells_of
from actprune.lab.compare.entrants import ENTRANTS, Entrant, chosen
from actprune.lab.compare.sweep import Swept, sweep
from actprune.lab.compare.training import Training

__all__ = ["ENTRANTS", "Cell", "Entrant", "Swept", "Training", "cells_of", "chosen", "sweep"]
