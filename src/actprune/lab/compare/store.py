"""L5: ``results.jsonl``: one line per finished trial, appended and brought to disk; nothing is ever rewritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actprune.errors import CheckpointError
from actprune.lab import atomic

NAME = "results.jsonl"
Row = dict[str, Any]
_ALWAYS = ("id", "data", "model", "baseline", "seed", "target", "training", "status")
_OK = (*_ALWAYS, "test_accuracy", "validation_accuracy", "weights", "kept", "steps", "seconds")


def rows(out: Path) -> list[Row]:
    """All whole lines; a last line that a kill cut short is left out, its trial is computed again.

    Raises CheckpointError for damage elsewhere.
    """
    path = out / NAME
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [_row(line)] if line.strip() else []
        except ValueError as error:
            if number == len(lines):
                break
            raise CheckpointError(
                f"{path}, line {number} is damaged: {error}; delete this line (its trial is computed again) and go on"
            ) from error
    return found


def _row(line: bytes) -> Row:
    """One line. Raises ValueError when it is no row."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"it holds a {type(row).__name__}, expected an object")
    wanted = _OK if row.get("status") == "ok" else _ALWAYS
    if missing := [key for key in wanted if row.get(key) is None]:
        raise ValueError(f"{', '.join(missing)} missing")
    return row


def mend(out: Path) -> None:
    """Make the file end with a whole line. Whoever calls it holds the lock of ``out``."""
    path = out / NAME
    if not path.exists():
        return
    content = path.read_bytes()
    whole, last = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
    if not last:
        return
    try:
        json.loads(last)
        atomic.write_bytes(path, content + b"\n")
    except ValueError:
        atomic.write_bytes(path, whole)


def append(out: Path, row: Row) -> None:
    """One more line."""
    atomic.append_line(out / NAME, atomic.json_line(row))
