"""L5: trials over processes of this machine. A process that dies takes its own trial with it, no other."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from actprune.errors import ActpruneError
from actprune.lab.imports import import_object
from actprune.lab.listener import Listener, Silent

Job = dict[str, Any]
"""Plain values; ``work`` names the function that makes a row of it, ``"module:name"``, called with a listener too."""


_NONE: Job = {}


@dataclass(frozen=True)
class Outcome:
    """A row, or why there is none."""

    job: Job
    row: dict[str, Any] | None = None
    failed: str | None = None


def here(jobs: Iterable[Job]) -> Iterator[Outcome]:
    """One after the other in this process."""
    for job in jobs:
        yield _outcome(job, attempt(job))


def attempt(job: Job, listener: Listener | None = None) -> dict[str, Any]:
    """``{"row": ..}`` or ``{"failed": text}``: whatever goes wrong in one trial, the others go on."""
    try:
        work: Any = import_object(job["work"])
        return {"row": work(job, listener or Silent())}
    except ActpruneError as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    except Exception as error:  # a bug or a full memory must not end hours of other trials
        return {"failed": f"{type(error).__name__}: {error}"}


def spread(jobs: Iterable[Job], processes: int) -> Iterator[Outcome]:
    """As many at a time as there are processes; outcomes in the order in which they come."""
    waiting = iter(jobs)
    busy: dict[Connection, _Worker] = {}
    try:
        for job in itertools.islice(waiting, processes):
            _start(busy, _Worker.started(), job)
        while busy:
            for end in wait(list(busy)):
                worker = busy.pop(end)  # type: ignore[call-overload]
                outcome, alive = worker.outcome()
                more = next(waiting, _NONE)
                if more is not _NONE:
                    _start(busy, worker if alive else _Worker.started(), more)
                elif alive:
                    worker.dismiss()
                yield outcome
    finally:
        for worker in busy.values():
            worker.process.terminate()
        for worker in busy.values():
            worker.process.join()


def _start(busy: dict[Connection, _Worker], worker: _Worker, job: Job) -> None:
    worker.job = job
    worker.pipe.send(job)
    busy[worker.pipe] = worker


@dataclass(eq=False)
class _Worker:
    """A process, and our end of the pipe to it."""

    process: Any
    pipe: Connection
    job: Job

    @classmethod
    def started(cls) -> _Worker:
        """Spawned, not forked: torch's threads do not survive a fork, and locks must not be inherited."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with _one_thread():
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
        theirs.close()
        return cls(process, ours, {})

    def outcome(self) -> tuple[Outcome, bool]:
        """What came back, and whether the process can take another trial."""
        try:
            return _outcome(self.job, self.pipe.recv()), True
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return Outcome(
                self.job, failed=f"its process ended without a result ({how}); is there enough memory?"
            ), False

    def dismiss(self) -> None:
        """Let it end by itself."""
        self.pipe.close()
        self.process.join()


def _outcome(job: Job, answer: dict[str, Any]) -> Outcome:
    return Outcome(job, answer.get("row"), answer.get("failed"))


def _serve(pipe: Connection) -> None:
    """Work off what comes through the pipe, until it is closed. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = _WhileParentLives()
    while True:
        try:
            job = pipe.recv()
            pipe.send(attempt(job, listener))
        except (EOFError, OSError, _Orphaned):
            return


class _Orphaned(BaseException):
    """The process that asked for this trial is gone."""


class _WhileParentLives(Silent):
    """Ends a worker whose comparison was killed, between two epochs: its checkpoint is there, and its trial is free."""

    def __init__(self) -> None:
        self.parent = os.getppid()

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """Look for the parent."""
        if os.getppid() != self.parent:
            raise _Orphaned


@contextmanager
def _one_thread() -> Iterator[None]:
    """A child reads these when it imports torch."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
