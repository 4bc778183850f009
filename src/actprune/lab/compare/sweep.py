"""L5: compute the cells that are missing, wherever, and write each down as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from actprune.lab import lock
from actprune.lab.compare import pool, store
from actprune.lab.compare.cells import Cell
from actprune.lab.compare.pool import Outcome
from actprune.lab.compare.work import finished, relabelled

CELLS = "cells"


class Watcher(Protocol):
    """Who is told how a comparison goes."""

    def started(self, todo: Sequence[Cell], done: int) -> None:
        """So many are to be computed, so many were there."""
        ...

    def cell_done(self, cell: Cell, outcome: Outcome) -> None:
        """One more, or one that failed."""
        ...


@dataclass(frozen=True)
class Swept:
    """rows: of the asked cells, where there is one. failed: cells left to do, with the reason."""

    rows: list[dict[str, Any]]
    failed: list[tuple[Cell, str]]


def sweep(
    cells: Sequence[Cell],
    out: Path,
    *,
    jobs: int = 1,
    ray: str | None = None,
    keep_cells: bool = True,
    watcher: Watcher | None = None,
) -> Swept:
    """Compute what ``out`` does not hold yet.

    jobs: processes on this machine. ray: instead, the address of a Ray cluster, or "local". keep_cells: leave each
    cell's folder (configuration, figures, masks, weights). Raises CheckpointError when ``out`` is in use or damaged.
    """
    with lock.locked(out):
        store.mend(out)
        rows = store.rows(out)
        have = {_key(row) for row in rows}
        todo = [cell for cell in cells if _key(cell.labels()) not in have]
        if watcher:
            watcher.started(todo, len(cells) - len(todo))
        failed = []
        for cell, outcome in _outcomes(todo, {row["id"]: row for row in rows}, out, jobs, ray):
            if outcome.row is None:
                failed.append((cell, outcome.failed or "no result"))
            else:
                store.append(out, outcome.row)
                if not keep_cells:
                    shutil.rmtree(outcome.job["folder"], ignore_errors=True)
            if watcher:
                watcher.cell_done(cell, outcome)
        wanted = {_key(cell.labels()) for cell in cells}
        return Swept([row for row in store.rows(out) if _key(row) in wanted], failed)


def _key(labels: dict[str, Any]) -> tuple[Any, ...]:
    """A result, and the place in the table that it is for."""
    return tuple(labels[key] for key in ("id", "entrant", "asked", "training"))


def _outcomes(
    todo: Sequence[Cell], known: dict[str, dict[str, Any]], out: Path, jobs: int, ray: str | None
) -> Iterator[tuple[Cell, Outcome]]:
    """First what was computed but not written down (for this place), then the rest. known: rows by id."""
    place = str((out / CELLS).resolve())
    by_id = {cell.id: cell for cell in todo}
    rest = []
    for cell in todo:
        job = cell.job(place)
        row = relabelled(known[cell.id], job) if cell.id in known else finished(job)
        if row is None:
            rest.append(job)
        else:
            yield cell, Outcome(job, row)
    for outcome in _runner(jobs, ray)(rest):
        yield by_id[outcome.job["labels"]["id"]], outcome


def _runner(jobs: int, ray: str | None) -> Callable[[list[pool.Job]], Iterator[Outcome]]:
    if ray is not None:
        from actprune.lab.compare.cluster import over

        return lambda rest: over(rest, ray)
    return pool.here if jobs == 1 else lambda rest: pool.spread(rest, jobs)
