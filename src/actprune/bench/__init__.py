"""L5: data sets, models, the training loop and comparisons of the experiments.

>>> from actprune.bench import RunConfig, run
>>> result = run(RunConfig(data="digits", sparsity=0.9), out="runs/first")      # doctest: +SKIP
>>> result.summary["test_accuracy"]                                             # doctest: +SKIP
"""

from actprune.bench.config import RunConfig
from actprune.bench.run import RunResult, resume, run
from actprune.bench.seeds import resume_seeds, run_seeds

__all__ = ["RunConfig", "RunResult", "resume", "resume_seeds", "run", "run_seeds"]
