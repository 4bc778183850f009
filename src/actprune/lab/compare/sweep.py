"""L5: compute the trials that are missing, wherever, and write each down as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from actprune.lab import lock, pool, store
from actprune.lab.compare.trials import Trial
from actprune.lab.compare.work import finished, relabelled
from actprune.lab.sweep import compute, missing

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

    def trial_done(self, trial: Trial, outcome: pool.Outcome) -> None:
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
    path, failed = out / NAME, []
    with lock.locked(out):
        store.mend(path)
        rows = rows_of(out)
        todo = missing([_Placed(trial, out) for trial in trials], path)
        if watcher:
            watcher.started([placed.trial for placed in todo], len(trials) - len(todo))
        for placed, outcome in _computed(todo, {row["id"]: row for row in rows}, path, jobs, ray):
            if outcome.row is None:
                failed.append((placed.trial, outcome.failed or "no result"))
            elif not keep_trials:
                shutil.rmtree(outcome.job["folder"], ignore_errors=True)
            if watcher:
                watcher.trial_done(placed.trial, outcome)
        wanted = {_key(trial.labels()) for trial in trials}
        return Swept([row for row in rows_of(out) if _key(row) in wanted], failed)


@dataclass(frozen=True, eq=False)
class _Placed:
    """A trial in a comparison's folder, as ``lab.sweep`` asks for it."""

    trial: Trial
    out: Path

    @cached_property
    def key(self) -> tuple[Any, ...]:
        return _key(self.trial.labels())

    def is_row(self, row: store.Row) -> bool:
        return _key(row) == self.key

    def job(self) -> pool.Job:
        return self.trial.job(str((self.out / TRIALS).resolve()))


def _key(labels: dict[str, Any]) -> tuple[Any, ...]:
    """A result, and the place in the table that it is for."""
    return tuple(labels[key] for key in ("id", "baseline", "target", "training"))


def _computed(
    todo: Sequence[_Placed], known: dict[str, store.Row], path: Path, jobs: int, ray: str | None
) -> Iterator[tuple[_Placed, pool.Outcome]]:
    """First what was computed but not written down (for this place), then the rest. known: rows by id."""
    rest = []
    for placed in todo:
        job = placed.job()
        row = relabelled(known[placed.trial.id], job) if placed.trial.id in known else finished(job)
        if row is None:
            rest.append(placed)
        else:
            store.append(path, row)
            yield placed, pool.Outcome(job, row)
    yield from compute(rest, path, jobs=jobs, ray=ray)
