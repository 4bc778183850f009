"""L5: files that are either old or new, never half: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actprune import atomic
from actprune.errors import CheckpointError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path``. Raises CheckpointError when the folder cannot be written or the disk is full."""
    atomic.write_bytes(path, content, unwritable)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by indented JSON."""
    write_bytes(path, (json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def json_line(value: Any) -> str:
    """One line of JSON, without its newline."""
    return json.dumps(finite(value), allow_nan=False)


def finite(value: Any) -> Any:
    """Plain values with None for NaN and infinities, which JSON lacks (an emptied network's compression is inf)."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Inverse of ``write_json``. Raises CheckpointError when the file is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); it must hold JSON as `actprune run` wrote it") from error


def append_line(path: Path, line: str) -> None:
    """Append one line and bring it to disk."""
    try:
        with path.open("ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """What to say when the system refuses to write."""
    return CheckpointError(
        f"cannot write {path}: {error.strerror or error}; free space or make the folder writable, then continue with "
        f"`actprune resume`, a comparison with its own command (what was saved before is intact), or choose another "
        "folder"
    )
