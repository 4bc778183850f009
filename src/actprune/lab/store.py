"""L5: a file of rows: one line of JSON per finished trial, appended and brought to disk; nothing is ever rewritten."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actprune.errors import CheckpointError
from actprune.lab import atomic

Row = dict[str, Any]
Required = Callable[[Row], Sequence[str]]
"""Keys that a row must have."""


def rows(path: Path, required: Required = lambda _: ()) -> list[Row]:
    """All whole lines; a last line that a kill cut short is left out, its trial is computed again.

    Raises CheckpointError for damage elsewhere.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [_row(line, required)] if line.strip() else []
        except ValueError as error:
            if number == len(lines):
                break
            raise CheckpointError(
                f"{path}, line {number} is damaged: {error}; delete this line (its trial is computed again) and go on"
            ) from error
    return found


def _row(line: bytes, required: Required) -> Row:
    """One line. Raises ValueError when it is no row."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"it holds a {type(row).__name__}, expected an object")
    if missing := [key for key in required(row) if row.get(key) is None]:
        raise ValueError(f"{', '.join(missing)} missing")
    return row


def mend(path: Path) -> None:
    """Make the file end with a whole line. Whoever calls it holds a lock."""
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


def append(path: Path, row: Row) -> None:
    """One more line."""
    atomic.append_line(path, atomic.json_line(row))
