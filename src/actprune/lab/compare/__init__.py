"""L5: many methods, one budget: the same data split, network, training and seeds for everyone, one tidy file."""

from actprune.lab.compare.baselines import BASELINES, Baseline, chosen
from actprune.lab.compare.sweep import Swept, sweep
from actprune.lab.compare.training import Training
from actprune.lab.compare.trials import Trial, trials_of

__all__ = ["BASELINES", "Baseline", "Swept", "Training", "Trial", "chosen", "sweep", "trials_of"]
