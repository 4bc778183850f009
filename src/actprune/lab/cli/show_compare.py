"""L5: what the terminal shows of a comparison: its plan, its progress, its tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actprune.errors import CheckpointError
from actprune.lab.compare import BASELINES, Trial
from actprune.lab.compare.aggregate import panels
from actprune.lab.compare.article import ERRORS
from actprune.lab.compare.baselines import DENSE
from actprune.lab.compare.sweep import NAME, rows_of
from actprune.lab.report import compare as tables

if TYPE_CHECKING:
    from actprune.lab.pool import Outcome

NOTES = {baseline.name: f"{baseline.method}: {baseline.note}" for baseline in (DENSE, *BASELINES.values())}


def baselines(console: Console) -> None:
    """Name, method, note."""
    table = Table(title="baselines of a comparison")
    for heading in ("name", "method", "what it is"):
        table.add_column(heading, overflow="fold")
    for baseline in BASELINES.values():
        table.add_row(Text(baseline.name, style="bold"), baseline.method, baseline.note)
    console.print(table)


def name_of(trial: Trial) -> str:
    """A trial in words."""
    sparsity = f" at {100 * trial.sparsity:g} %" if trial.sparsity else ""
    return f"{trial.data}, {trial.model}, seed {trial.seed}: {trial.baseline.name}{sparsity}"


class Progress:
    """A bar on a terminal, a line per trial elsewhere, each with the time left."""

    def __init__(self, console: Console, jobs: int) -> None:
        self.console, self.jobs = console, jobs
        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(30), bars.MofNCompleteColumn())
        self.bar = bars.Progress(*columns, bars.TextColumn("{task.fields[left]}"), console=console, transient=True)
        self.total, self.done, self.ahead, self.behind, self.since = 0, 0, 0, 0, 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave a clean terminal, whatever happened."""
        if self.console.is_terminal:
            self.bar.stop()

    def started(self, todo: Sequence[Trial], done: int) -> None:
        """What there is to do."""
        self.total, self.ahead, self.since = len(todo), sum(map(_length, todo)), time.monotonic()
        self._say(f"{len(todo)} trials to compute, {done} there already")
        self.task = self.bar.add_task("trials", total=len(todo), left="")

    def trial_done(self, trial: Trial, outcome: Outcome) -> None:
        """One line, and a better guess of the time left."""
        self.done += 1
        self.behind += _length(trial)
        spent = time.monotonic() - self.since
        left = f"about {span(spent / self.behind * (self.ahead - self.behind))} left"
        self.bar.update(self.task, completed=self.done, left=left)
        self._say(f"{self.done}/{self.total} {name_of(trial)}: {_verdict(outcome)}; {left}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def plan(console: Console, trials: Sequence[Trial], out: Path, jobs: int) -> None:
    """Every trial, whether it is there, and the time the rest may take by what the finished ones took."""
    rows = {row["id"]: row for row in rows_of(out)}
    for trial in trials:
        state = rows[trial.id]["status"] if trial.id in rows else "to do"
        console.print(f"{trial.id}  {state:8} {name_of(trial)}", soft_wrap=True, markup=False, highlight=False)
    todo = [trial for trial in trials if trial.id not in rows]
    known: dict[tuple[str, str], list[float]] = {}
    for row in rows.values():
        if row.get("steps"):
            known.setdefault((row["data"], row["model"]), []).append(row["seconds"] / row["steps"])
    guesses = [
        sum(known[key]) / len(known[key]) * trial.steps * trial.baseline.lengths if key in known else None
        for trial in todo
        if (key := (trial.data, trial.model))
    ]
    seconds = sum(guess for guess in guesses if guess is not None) / jobs
    without = guesses.count(None)
    found = f"about {span(seconds)} with {jobs} process{'es' if jobs > 1 else ''}" if without < len(guesses) else ""
    unknown = f"no finished trial to estimate {without} of them from" if without else ""
    about = "; ".join(part for part in (found, unknown) if part)
    console.print(f"{len(trials)} trials, {len(todo)} to compute" + (f": {about}" if about else ""), soft_wrap=True)


def results(console: Console, out: Path, points: float, preset: str | None) -> None:
    """Tables on the terminal; table.md and the plot in the folder. Raises CheckpointError when there is nothing."""
    rows = rows_of(out)
    if not rows:
        raise CheckpointError(f"{out / NAME} holds no result; `actprune compare --out {out}` computes some")
    found = panels(rows)
    for panel in found:
        if panel.baselines:
            table = [line[:-1] for line in tables.article_lines(panel)] if preset else tables.lines(panel)
            console.print(tables.rich_table(table, panel.title))
        console.print(tables.dense_line(panel), soft_wrap=True, markup=False, highlight=False)
        if panel.baselines:
            title = f"sparsity at equal validation accuracy (within {100 * points:g} points of dense)"
            console.print(tables.rich_table(tables.equal_lines(panel, points), title))
    console.print(f"{tables.ARTICLE_READING}\n\n{ERRORS}" if preset else tables.READING, markup=False, highlight=False)
    for path in tables.write(found, out, points, NOTES, article=preset == "article"):
        console.print(path, soft_wrap=True, markup=False, highlight=False)


def failures(console: Console, failed: Sequence[tuple[Trial, str]]) -> None:
    """Trials without a result."""
    console.print(
        Text(f"{len(failed)} trials have no result and are left to do; run the same command again:", "yellow")
    )
    for trial, reason in failed:
        console.print(f"  {name_of(trial)}: {reason}", soft_wrap=True, markup=False, highlight=False)


def span(seconds: float) -> str:
    """A time in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _length(trial: Trial) -> int:
    return trial.steps * trial.baseline.lengths


def _verdict(outcome: Outcome) -> str:
    row = outcome.row
    if row is None:
        return f"no result: {outcome.failed}"
    if row["status"] != "ok":
        return f"refused: {row['reason']}"
    return f"test {row['test_accuracy']:.2%}, {row['kept']:,} of {row['weights']:,} weights, {span(row['seconds'])}"
