"""L5: how a run is shown while it goes: bars on a terminal, short lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

EVERY = 10
"""Epochs between two plain lines; pruning steps always get one."""


def describe(row: Mapping[str, Any]) -> str:
    """One epoch in one line."""
    train = "   -  " if row["train_accuracy"] is None else f"{row['train_accuracy']:6.2%}"
    return (
        f"train {train}  val {row['validation_accuracy']:6.2%} (loss {row['validation_loss']:.3f})  "
        f"removed {row['sparsity']:6.2%}  pruning steps {row['pruning_steps']}"
    )


def describe_pruning(row: Mapping[str, Any]) -> str:
    """A pruning in one line."""
    report = row["pruning"]
    return (
        f"epoch {row['epoch']:>4}  pruning step {report['pruning_step']}: target {report['target']:.2%}, "
        f"actual {report['actual']:.2%}; val {row['validation_accuracy']:.2%} -> {report['after']['accuracy']:.2%}"
    )


class Lines:
    """Plain lines for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def started(self, title: str, epoch: int, epochs: int, steps: int) -> None:
        """Title, and where a resumed run stands."""
        self._say(
            f"{title}: {f'resumed after epoch {epoch}, ' if epoch else ''}at most {epochs} epochs of {steps} steps"
        )

    def stepped(self) -> None:
        """Nothing: an epoch is the smallest unit here."""

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """Pruning steps, the first epoch, and every tenth."""
        if row["epoch"] == 1 or row["epoch"] % EVERY == 0:
            self._say(f"epoch {row['epoch']:>4}  {describe(row)}")
        if row["pruned"]:
            self._say(describe_pruning(row))

    def note(self, text: str) -> None:
        """A remark."""
        self._say(f"note: {text}")

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Why it ended."""
        self._say(f"stopped by {summary['stopped_by']} after epoch {summary['epochs']}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


class Bars(Lines):
    """Two bars: batches of this epoch, epochs of at most as many as were asked for. Pruning steps stay as lines."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, TextColumn("{task.fields[now]}"), console=console, transient=True)
        self.epochs: TaskID | None = None
        self.batches: TaskID | None = None

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave a clean terminal, whatever happened."""
        self.bars.stop()

    def started(self, title: str, epoch: int, epochs: int, steps: int) -> None:
        """Fresh bars: several seeds use one listener."""
        super().started(title, epoch, epochs, steps)
        for task in (self.epochs, self.batches):
            if task is not None:
                self.bars.remove_task(task)
        self.epochs = self.bars.add_task("epochs ", total=epochs, completed=epoch, now="")
        self.batches = self.bars.add_task("batches", total=steps, now="")

    def stepped(self) -> None:
        """One batch."""
        if self.batches is not None:
            self.bars.advance(self.batches)

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """One epoch; a pruning leaves a line."""
        if row["pruned"]:
            self._say(describe_pruning(row))
        if self.epochs is not None and self.batches is not None:
            self.bars.update(self.epochs, completed=row["epoch"], now=describe(row))
            self.bars.update(self.batches, completed=0)
