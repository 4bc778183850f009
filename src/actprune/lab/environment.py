"""L5: where a run takes place: what may change the bits of its result besides its configuration."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from actprune.errors import CheckpointError
from actprune.lab.listener import Listener
from actprune.lab.setup import Setup


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """That many CPU threads inside the block, and denormal numbers flushed to zero.

    A pruned network makes many of them (momentum of weights whose gradient has become exactly zero decays through the
    denormal range), and arithmetic on them can be several times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def environment(setup: Setup) -> dict[str, Any]:
    """Plain values for environment.json."""
    import lightning_fabric
    import numpy

    from actprune import __version__

    return {
        "actprune": __version__,
        "torch": torch.__version__,
        "lightning_fabric": lightning_fabric.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(setup.device),
        "accelerator": torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else None,
        "seed": setup.config.seed,
        "data_sha256": setup.dataset.fingerprint,
    }


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def compare(before: dict[str, Any], now: dict[str, Any], listener: Listener) -> None:
    """Other data is an error; another torch or processor may change the last bits, which is said."""
    if before.get("data_sha256") != now["data_sha256"]:
        raise CheckpointError(
            "the data set is not the one this run began with (its checksum differs); put the old data back, "
            "or start a new run"
        )
    changed = [name for name in ("torch", "cpu", "device", "accelerator") if before.get(name) != now[name]]
    if changed:
        listener.note(
            "resumed with another " + ", ".join(f"{name} ({now[name]}, was {before.get(name)})" for name in changed)
            + ": the result may differ in the last bits from an uninterrupted run"
        )  # fmt: skip
