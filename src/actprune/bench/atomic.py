"""L5: files that are either old or new, never half: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actprune.errors import CheckpointError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path``. A kill or power cut at any moment leaves the old file or the new one.

    Raises CheckpointError when the folder cannot be written or the disk is full; the old file is then untouched.
    """
    beside = path.with_name(f".{path.name}.tmp")  # a fixed name: the folder is locked, and a leftover is overwritten
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise unwritable(path, error) from error


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


def sync_folder(folder: Path) -> None:
    """Bring a rename to disk, where the system lets folders be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """What to say when the system refuses to write."""
    return CheckpointError(
        f"cannot write {path}: {error.strerror or error}; free space or make the folder writable, then continue with "
        f"`actprune resume` (what was saved before is intact), or choose another folder"
    )
