"""L5: the same run under several seeds, each in a folder of its own below one folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from actprune.errors import CheckpointError, RecipeError
from actprune.lab import atomic
from actprune.lab.config import RunConfig
from actprune.lab.folder import RunFolder
from actprune.lab.run import RunResult, resume, run

LIST = "seeds.json"
FIGURES = (
    "actual",
    "sparsity",
    "compression",
    "flop_kept",
    "train_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "seconds",
)


def run_seeds(
    config: RunConfig, seeds: Sequence[int], out: str | Path, *, overwrite: bool = False, **how: Any
) -> list[RunResult]:
    """``run`` once per seed, into ``out/seed-0``, ``out/seed-1`` ..; ``out/summary.json`` has mean and spread.

    how: ``plots`` and ``listener``, as for ``run``. Raises what ``run`` raises, and RecipeError for equal seeds.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise RecipeError(f"seeds={list(seeds)} cannot be used; expected different whole numbers, such as 0,1,2")
    place, every = Path(out), [config.with_(seed=seed) for seed in seeds]
    if (place / LIST).exists() and not overwrite:
        raise CheckpointError(
            f"{place} holds runs already; `actprune resume {place}` goes on with them, --overwrite replaces them"
        )
    if RunFolder(place).begun:
        raise CheckpointError(f"{place} holds a single run; choose another folder for several seeds (--out)")
    atomic.write_json(place / LIST, {"seeds": list(seeds), "config": config.model_dump(mode="json")})
    return _all(place, [_later(run, each, _folder(place, each.seed), overwrite=overwrite, **how) for each in every])


def resume_seeds(out: str | Path, **how: Any) -> list[RunResult]:
    """Finish every seed of an interrupted ``run_seeds``: runs that began go on, the others start."""
    place = Path(out)
    listed = atomic.read_json(place / LIST)
    config = RunConfig(**listed["config"])
    jobs = []
    for seed in listed["seeds"]:
        folder = _folder(place, seed)
        begun = RunFolder(folder).begun
        jobs.append(_later(resume, folder, **how) if begun else _later(run, config.with_(seed=seed), folder, **how))
    return _all(place, jobs)


def spread(summaries: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (n - 1; 0 for one seed) of every figure that all seeds have."""
    columns = {
        key: [float(summary[key]) for summary in summaries]
        for key in FIGURES
        if all(summary[key] is not None for summary in summaries)
    }
    return {key: {"mean": mean(v), "std": stdev(v) if len(v) > 1 else 0.0} for key, v in columns.items()}


def _all(place: Path, jobs: Sequence[Callable[[], RunResult]]) -> list[RunResult]:
    results = [job() for job in jobs]
    summaries = [result.summary for result in results]
    atomic.write_json(place / "summary.json", {"spread": spread(summaries), "runs": summaries})
    return results


def _later(call: Callable[..., RunResult], *args: Any, **how: Any) -> Callable[[], RunResult]:
    return lambda: call(*args, **how)


def _folder(place: Path, seed: int) -> Path:
    return place / f"seed-{seed}"
