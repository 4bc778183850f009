"""Measurements in processes of their own: what one of them holds or breaks, the next one does not see."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any


def apart(file: str, *arguments: str, limit: float | None = None) -> dict[str, Any]:
    """The last line that a script prints, as JSON; or its last line of complaint as ``{"error": ...}``."""
    command = [sys.executable, file, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"name": arguments[-1], "error": f"more than {limit:g} s"}
    if done.returncode:
        return {"name": arguments[-1], "error": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
