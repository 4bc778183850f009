"""L5: compute the trials that are missing, wherever, and write each down as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from actprune.lab import lock, pool, store
from actprune.lab.compare.trials import Trial
from actprune.lab.compare.work import finished, relabelled
from actprune.lab.pool import Outcome

TRIALS, NAME = "trials", "results.jsonl"
_ALWAYS = ("id", "data", "model", "baseline", "seed", "target", "training", "status")
_OK = (*_ALWAYS, "test_accuracy", "validation_accuracy", "weights", "kept", "steps", "seconds")


def rows_of(out: Path) -> list[store.Row]:
    """All rows of a comparison's folder. Raises CheckpointError when the file is damaged."""
    return store.rows(out / NAME, lambda row: _OK if row.get("status") == "ok" else _ALWAYS)


class Watcher(Protocol):
    """Who is told how a comparison goes."""

    def started(self, todo: Sequence[Trial], done: int) -> None:
        """So many are to be computed, so many were there."""
        ...

    def trial_done(self, trial: Trial, outcome: Outcome) -> None:
        """One more, or one that failed."""
        ...


@dataclass(frozen=True)
class Swept:
    """rows: of the trials wanted, where there is one. failed: trials left to do, with the reason."""

    rows: list[dict[str, Any]]
    failed: list[tuple[Trial, str]]


def sweep(
    trials: Sequence[Trial],
    out: Path,
    *,
    jobs: int = 1,
    ray: str | None = None,
    keep_trials: bool = True,
    watcher: Watcher | None = None,
) -> Swept:
    """Compute what ``out`` does not hold yet.

    jobs: processes on this machine. ray: instead, the address of a Ray cluster, or "local". keep_trials: leave each
    trial's folder (configuration, figures, masks, weights). Raises CheckpointError when ``out`` is in use or damaged.
    """
    with lock.locked(out):
        store.mend(out / NAME)
        rows = rows_of(out)
        have = {_key(row) for row in rows}
        todo = [trial for trial in trials if _key(trial.labels()) not in have]
        if watcher:
            watcher.started(todo, len(trials) - len(todo))
        failed = []
        for trial, outcome in _outcomes(todo, {row["id"]: row for row in rows}, out, jobs, ray):
            if outcome.row is None:
                failed.append((trial, outcome.failed or "no result"))
            else:
                store.append(out / NAME, outcome.row)
                if not keep_trials:
                    shutil.rmtree(outcome.job["folder"], ignore_errors=True)
            if watcher:
                watcher.trial_done(trial, outcome)
        wanted = {_key(trial.labels()) for trial in trials}
        return Swept([row for row in rows_of(out) if _key(row) in wanted], failed)


def _key(labels: dict[str, Any]) -> tuple[Any, ...]:
    """A result, and the place in the table that it is for."""
    return tuple(labels[key] for key in ("id", "baseline", "target", "training"))


def _outcomes(
    todo: Sequence[Trial], known: dict[str, dict[str, Any]], out: Path, jobs: int, ray: str | None
) -> Iterator[tuple[Trial, Outcome]]:
    """First what was computed but not written down (for this place), then the rest. known: rows by id."""
    place = str((out / TRIALS).resolve())
    by_id = {trial.id: trial for trial in todo}
    rest = []
    for trial in todo:
        job = trial.job(place)
        row = relabelled(known[trial.id], job) if trial.id in known else finished(job)
        if row is None:
            rest.append(job)
        else:
            yield trial, Outcome(job, row)
    for outcome in _runner(jobs, ray)(rest):
        yield by_id[outcome.job["labels"]["id"]], outcome


def _runner(jobs: int, ray: str | None) -> Callable[[list[pool.Job]], Iterator[Outcome]]:
    if ray is not None:
        from actprune.lab.cluster import over

        return lambda rest: over(rest, ray)
    return pool.here if jobs == 1 else lambda rest: pool.spread(rest, jobs)
