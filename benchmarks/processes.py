"""Measurements in processes of their own: what one of them holds or breaks, the next one does not see."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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


def resident(field: str) -> int:
    """Bytes, of VmRSS or VmHWM. Linux only."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def extra(run: Callable[[], Any]) -> int:
    """Bytes held at most while something runs, above what was held before it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's record of the peak begins anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before
