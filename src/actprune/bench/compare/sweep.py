"""L5: compute the cells that are missing, wherever, and write each down as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from actprune.bench import lock
from actprune.bench.compare import pool, store
from actprune.bench.compare.cells import Cell
from actprune.bench.compare.pool import Outcome
from actprune.bench.compare.work import finished

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
        have = {row["id"] for row in store.rows(out)}
        todo = [cell for cell in cells if cell.id not in have]
        if watcher:
            watcher.started(todo, len(cells) - len(todo))
        failed = []
        for cell, outcome in _outcomes(todo, out, jobs, ray):
            if outcome.row is None:
                failed.append((cell, outcome.failed or "no result"))
            else:
                store.append(out, outcome.row)
                if not keep_cells:
                    shutil.rmtree(outcome.job["folder"], ignore_errors=True)
            if watcher:
                watcher.cell_done(cell, outcome)
        wanted = {cell.id for cell in cells}
        return Swept([row for row in store.rows(out) if row["id"] in wanted], failed)


def _outcomes(todo: Sequence[Cell], out: Path, jobs: int, ray: str | None) -> Iterator[tuple[Cell, Outcome]]:
    """First what was computed but not written down, then the rest."""
    place = str((out / CELLS).resolve())
    by_id = {cell.id: cell for cell in todo}
    rest = []
    for cell in todo:
        job = cell.job(place)
        row = finished(job)
        if row is None:
            rest.append(job)
        else:
            yield cell, Outcome(job, row)
    for outcome in _runner(jobs, ray)(rest):
        yield by_id[outcome.job["labels"]["id"]], outcome


def _runner(jobs: int, ray: str | None) -> Callable[[list[pool.Job]], Iterator[Outcome]]:
    if ray is not None:
        from actprune.bench.compare.cluster import over

        return lambda rest: over(rest, ray)
    return pool.here if jobs == 1 else lambda rest: pool.spread(rest, jobs)
