"""L5: a list of trials, each computed once: what every benchmark of the project stands on.

    from actprune.lab.sweep import Trial, main, spread, table

    def one(method, seed):  # the function of a trial, in the module mybench
        return train(RunConfig(data="digits", method=method, seed=seed), Path("runs/mine") / f"{method}-{seed}")

    TRIALS = [Trial({"method": m, "seed": s}, "mybench:one") for s in (0, 1, 2) for m in ("activation", "magnitude")]
    main(__doc__, TRIALS, Path("mine.jsonl"), report)       # --only, --seeds, --jobs, --ray, --report, --dry-run

A row is the trial's key and what its function returns, one line of JSON, appended and brought to disk when it is done.
A trial whose key is there is never computed twice, so a killed sweep goes on. A method's refusal is a row as well.
``actprune compare`` stands on the same two functions, `missing` and `compute`, with trials of its own.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Protocol, TypeVar

from actprune.errors import ActpruneError, CheckpointError, DataError, RecipeError
from actprune.lab import lock, pool, store
from actprune.lab.config import RunConfig
from actprune.lab.imports import import_object
from actprune.lab.listener import Listener
from actprune.lab.run import run

Row = dict[str, Any]
RUNS = Path("runs")


class Planned(Protocol):
    """What `missing` and `compute` ask of a trial."""

    def is_row(self, row: Row) -> bool:
        """Whether a row is this trial's."""
        ...

    def job(self) -> pool.Job:
        """Plain values for a worker."""
        ...


@dataclass(frozen=True, eq=False)
class Trial:
    """One row.

    key       plain values that tell it from all others, in the order in which they are shown; ``seed`` is one of them
    function  ``"module:name"``, called with the key's values by name; returns the rest of the row as plain values
    """

    key: Mapping[str, Any]
    function: str

    @property
    def name(self) -> str:
        """The key's values in a line."""
        return ", ".join(f"seed {value}" if name == "seed" else str(value) for name, value in self.key.items())

    def is_row(self, row: Row) -> bool:
        """Whether a row is this trial's."""
        return all(name in row and row[name] == value for name, value in self.key.items())

    def job(self) -> pool.Job:
        """Plain values for a worker."""
        return {"work": f"{__name__}:work", "name": self.name, "key": dict(self.key), "function": self.function}


T = TypeVar("T", bound=Planned)


def missing(trials: Iterable[T], path: Path) -> list[T]:
    """Those without a row. Raises CheckpointError when the file is damaged."""
    rows = store.rows(path)
    return [trial for trial in trials if not any(trial.is_row(row) for row in rows)]


def compute(
    trials: Iterable[T], path: Path, *, jobs: int = 1, ray: str | None = None
) -> Iterator[tuple[T, pool.Outcome]]:
    """Each trial with its outcome, in the order in which they come; a row is in ``path`` before it is told.

    jobs: processes, one CPU thread each. ray: instead, the address of a Ray cluster, or ``local``. Whoever calls it
    holds a lock. Raises RuntimePathError without Ray or its cluster.
    """
    begun: list[T] = []

    def numbered() -> Iterator[pool.Job]:
        for number, trial in enumerate(trials):
            begun.append(trial)
            yield {**trial.job(), "number": number}

    for outcome in _outcomes(numbered(), jobs, ray):
        if outcome.row is not None:
            store.append(path, outcome.row)
        yield begun[outcome.job["number"]], outcome


def _outcomes(waiting: Iterable[pool.Job], jobs: int, ray: str | None) -> Iterator[pool.Outcome]:
    """In this process, in several, or over a cluster."""
    if ray is not None:
        from actprune.lab.cluster import over

        return over(list(waiting), ray)
    return pool.here(waiting) if jobs == 1 else pool.spread(waiting, jobs)


def sweep(
    trials: Sequence[Trial],
    path: Path,
    *,
    jobs: int = 1,
    ray: str | None = None,
    minutes: float | None = None,
    told: Callable[[str], None] = print,
) -> list[str]:
    """Compute what ``path`` does not hold yet; what failed, in words.

    jobs, ray: as for `compute`. minutes: of wall time after which no new trial is begun. told: progress, a line per
    trial. Raises CheckpointError when the file is damaged or another sweep is at it, RecipeError for minutes over Ray,
    RuntimePathError without Ray or its cluster.
    """
    if ray is not None and minutes is not None:
        raise RecipeError(
            f"{minutes:g} minutes were asked for over Ray at {ray!r}, but a cluster is handed all trials at once; "
            "leave out --minutes, or --ray"
        )
    end = None if minutes is None else time.monotonic() + 60 * minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.locked(RUNS / "sweeps" / path.stem):
        store.mend(path)
        todo, failed = missing(trials, path), []
        waiting = itertools.takewhile(lambda _: end is None or time.monotonic() <= end, todo)
        for number, (trial, outcome) in enumerate(compute(waiting, path, jobs=jobs, ray=ray), 1):
            told(f"{number}/{len(todo)} {trial.name}: {_said(outcome)}")
            if outcome.row is None:
                failed.append(f"{trial.name}: {outcome.failed}")
        return failed


def work(job: pool.Job, listener: Listener) -> Row:
    """One trial in whatever process. Raises DataError and CheckpointError, which say nothing about a method."""
    function: Any = import_object(job["function"])
    began = time.process_time()
    try:
        found = function(**job["key"])
    except (DataError, CheckpointError):
        raise
    except ActpruneError as error:
        found = {"refused": f"{type(error).__name__}: {error}"}
    return {**job["key"], "cpu_seconds": round(time.process_time() - began, 1), **found}


def _said(outcome: pool.Outcome) -> str:
    """One row in a few words."""
    row = outcome.row
    if row is None:
        return f"FAILED: {outcome.failed}"
    summary = row.get("summary", row)
    told = [f"{100 * summary['actual']:.2f} % removed"] if "actual" in summary else []
    told += [f"test {100 * summary['test_accuracy']:.2f} %"] if "test_accuracy" in summary else []
    return row.get("refused") or ", ".join([*told, f"{row['cpu_seconds']:.0f} s"])


def train(config: RunConfig, folder: Path, *, keep_checkpoints: bool = False) -> Row:
    """Run one configuration in a folder of its own; ``config`` and ``summary`` as plain values. One thread."""
    config = config.with_(threads=1)
    summary = run(config, folder, overwrite=True, plots=False).summary
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"config": config.model_dump(mode="json"), "summary": summary}


# ---- reading rows ---------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[Row]:
    """All rows so far. Raises CheckpointError when the file is damaged."""
    return store.rows(path)


def select(rows: Iterable[Row], **key: Any) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in key.items())]


def spread(values: Iterable[float], digits: int = 2, scale: float = 1.0) -> str:
    """``mean ± standard deviation`` over seeds (n - 1; nothing for one value), ``inf`` when one is infinite."""
    scaled = [scale * value for value in values]
    if any(value == float("inf") for value in scaled):
        return "inf"
    around = f" ± {stdev(scaled):,.{digits}f}" if len(scaled) > 1 else ""
    return f"{mean(scaled):,.{digits}f}{around}" if scaled else ""


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, ending with a newline; the first column is to the left."""
    lines = [head, [":---", *["---:"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---- the command line of a benchmark --------------------------------------------------------------------------------


def main(doc: str | None, trials: Sequence[Trial], path: Path, report: Callable[[list[Row]], None]) -> None:
    """Compute what is missing, then write the report from all rows there are. report: rows -> files."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXTS", help="trials whose name contains one of these; with ;")
    parser.add_argument("--seeds", default="", metavar="0,1,2", help="only these seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes; one CPU thread each")
    parser.add_argument(
        "--ray", help="instead of processes: address of a Ray cluster (auto, ray://HOST:10001) or local"
    )
    parser.add_argument("--minutes", type=float, help="begin no new trial after this time")
    parser.add_argument("--dry-run", action="store_true", help="only list what is missing")
    parser.add_argument("--report", action="store_true", help="only write the report, from the rows so far")
    options = parser.parse_args()
    wanted = [trial for trial in trials if _wanted(trial, options.only, options.seeds)]
    if not wanted and (options.only or options.seeds):
        names = "; ".join(sorted({trial.name for trial in trials})[:8])
        parser.error(
            f"--only {options.only!r} --seeds {options.seeds!r} leaves no trial; there are, among others: {names}"
        )
    try:
        failed = _carried_out(options, wanted, path, report)
    except ActpruneError as error:
        parser.exit(1, f"{type(error).__name__}: {error}\n")
    if failed:
        parser.exit(1, "\n".join(["failed:", *failed]) + "\n")


def _carried_out(
    options: argparse.Namespace, wanted: Sequence[Trial], path: Path, report: Callable[[list[Row]], None]
) -> list[str]:
    """What the options ask for; what failed."""
    if options.dry_run:
        todo = missing(wanted, path)
        _print(
            "\n".join([*(trial.name for trial in todo), f"{len(todo)} of {len(wanted)} trials are missing in {path}"])
        )
        return []
    failed = []
    if not options.report:
        failed = sweep(wanted, path, jobs=options.jobs, ray=options.ray, minutes=options.minutes, told=_print)
    report(rows(path))
    return failed


def _print(line: str) -> None:
    print(line, flush=True)


def _wanted(trial: Trial, only: str, seeds: str) -> bool:
    named = not only or any(part in trial.name for part in only.split(";") if part)
    return named and (not seeds or str(trial.key.get("seed")) in seeds.split(","))
