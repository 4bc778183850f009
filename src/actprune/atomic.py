"""L0: files that are either old or new, never half: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from actprune.errors import ActpruneError


def write_bytes(path: Path, content: bytes, error: Callable[[Path, OSError], ActpruneError]) -> None:
    """Replace ``path``. A kill or power cut at any moment leaves the old file or the new one.

    error: makes the exception to raise when the system refuses (no permission, full disk); the old file is untouched.
    """
    if not path.name:  # "." and "/", which pathlib refuses to put a file beside
        raise error(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    beside = path.with_name(f".{path.name}.tmp")  # a fixed name: a leftover is overwritten by the next attempt
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as refused:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise error(path, refused) from refused


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
