"""L5: one trial: train, measure, write down, tidy up. Plain values in, plain values out, in whatever process."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from actprune.errors import ActpruneError, CheckpointError, DataError
from actprune.lab import atomic, lock
from actprune.lab.config import RunConfig
from actprune.lab.folder import RunFolder
from actprune.lab.listener import Listener, Silent
from actprune.lab.run import RunResult, resume, run

RESULT = "result.json"
_KEPT = {
    "config.json", "recipe.json", "environment.json", "summary.json", "metrics.jsonl", "masks.safetensors",
    "model.safetensors", RESULT, lock.NAME,
}  # fmt: skip
_PATIENCE = 60.0  # seconds for a process of a killed comparison to notice that it is alone


def work(job: dict[str, Any], listener: Listener = Silent()) -> dict[str, Any]:  # noqa: B008  (stateless)
    """Compute one trial and return its row. A method's refusal is a row as well.

    Raises DataError and CheckpointError: missing data or a full disk say nothing about a method.
    """
    since, cpu = time.perf_counter(), time.process_time()
    row: dict[str, Any] = {**job["labels"], "status": "ok", "reason": None}
    folder = Path(job["folder"])
    try:
        if job["refused"]:
            row |= {"status": "refused", "reason": job["refused"]}
        else:
            row |= _measured(job, folder, listener)
    except (DataError, CheckpointError):
        raise
    except ActpruneError as error:
        row |= {"status": "refused", "reason": f"{type(error).__name__}: {error}"}
    row.setdefault("seconds", round(time.perf_counter() - since, 3))
    row.setdefault("cpu_seconds", round(time.process_time() - cpu, 3))
    row["config"] = job["config"]
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(folder / RESULT, row)
    _tidy(folder)
    return row


def finished(job: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a trial that was computed but not yet written down when the comparison was killed."""
    path = Path(job["folder"]) / RESULT
    if not path.exists():
        return None
    try:
        row = atomic.read_json(path)
    except CheckpointError:
        return None
    return relabelled(row, job) if isinstance(row, dict) and row.get("id") == job["labels"]["id"] else None


def relabelled(row: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The row of the same run under the labels of this trial.

    Five times 5 epochs of one baseline may be the very run of another at 25 epochs: one result, two budgets.
    """
    found = {**row, **job["labels"]}
    if row.get("steps"):
        found["steps_relative"] = row["steps"] / job["labels"]["budget_steps"]
    return found


def _measured(job: dict[str, Any], folder: Path, listener: Listener) -> dict[str, Any]:
    from actprune.lab.compare.figures import figures

    result = _carried_out(RunConfig(**job["config"]), folder, listener)
    return figures(result, job["labels"]["budget_steps"])


def _carried_out(config: RunConfig, folder: Path, listener: Listener) -> RunResult:
    """Go on where a killed worker stood, else start."""
    _wait_for(folder)
    if RunFolder(folder).begun:
        try:
            if RunFolder(folder).read("config.json") == config.model_dump(mode="json"):
                return resume(folder, plots=False, listener=listener)
        except CheckpointError:
            pass  # its files are damaged: start again
    return run(config, folder, overwrite=True, plots=False, listener=listener)


def _wait_for(folder: Path) -> None:
    """Until nobody else holds the folder."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with lock.locked(folder):
                return
        except CheckpointError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _tidy(folder: Path) -> None:
    """Leave what a reader may want: configuration, figures, masks and the final weights."""
    for item in folder.iterdir():
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        elif item.name not in _KEPT:
            item.unlink(missing_ok=True)
