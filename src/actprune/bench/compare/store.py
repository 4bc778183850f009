"""L5: ``results.jsonl``: one line per finished cell, appended and brought to disk; nothing is ever rewritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actprune.bench import atomic
from actprune.errors import CheckpointError

NAME = "results.jsonl"
Row = dict[str, Any]


def rows(out: Path) -> list[Row]:
    """All whole lines; a last line that a kill cut short is left out, its cell is computed again.

    Raises CheckpointError for damage elsewhere.
    """
    path = out / NAME
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            if number == len(lines):
                break
            raise CheckpointError(
                f"{path}, line {number} is damaged: {error}; delete this line (its cell is computed again) and go on"
            ) from error
    return found


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
