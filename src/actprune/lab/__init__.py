"""L5: data sets, models, the training loop and comparisons of the experiments.

>>> from actprune.lab import RunConfig, run
>>> result = run(RunConfig(data="digits", sparsity=0.9), out="runs/first")      # doctest: +SKIP
>>> result.summary["test_accuracy"]                                             # doctest: +SKIP
"""

from actprune.lab.config import RunConfig
from actprune.lab.run import RunResult, resume, run
from actprune.lab.seeds import resume_seeds, run_seeds

__all__ = ["RunConfig", "RunResult", "resume", "resume_seeds", "run", "run_seeds"]
