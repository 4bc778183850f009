"""L5: who is told how a run goes. The terminal has its own listeners in ``lab/cli/``; this one says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Listener(Protocol):
    """Called by the loop, in this order, from the process that trains."""

    def started(self, title: str, epoch: int, epochs: int, steps: int) -> None:
        """A run begins, or goes on after ``epoch``; ``steps`` batches per epoch, ``epochs`` at most."""
        ...

    def stepped(self) -> None:
        """One batch is done."""
        ...

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know."""
        ...

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run is over and everything is written."""
        ...


class Silent:
    """Says nothing; the default from Python."""

    def started(self, title: str, epoch: int, epochs: int, steps: int) -> None:
        """Nothing."""

    def stepped(self) -> None:
        """Nothing."""

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Nothing."""
