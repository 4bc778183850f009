"""L5: the files of a run, written in such an order that a kill at any moment leaves a folder to resume.

config.json recipe.json environment.json   written before training; config.json last, so that it marks a complete set
metrics.jsonl timings.jsonl                one line per epoch; times are apart because they never repeat
pruning_steps/pruning-step-01.safetensors  counts the pruning went by, and kept weights per neuron
checkpoints/last.pt pruning-step-01.pt     after every epoch; after every pruning
model.safetensors masks.safetensors summary.json plots/   when the run is over
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from actprune.errors import CheckpointError
from actprune.lab import atomic, checkpoint, lock

FILES = (
    "config.json", "recipe.json", "environment.json", "metrics.jsonl", "timings.jsonl", "model.safetensors",
    "masks.safetensors", "summary.json",
)  # fmt: skip
FOLDERS = ("checkpoints", "pruning_steps", "plots")
_BEFORE_CONFIG = {"recipe.json", "environment.json", lock.NAME}
_LINES = ("metrics.jsonl", "timings.jsonl")


class RunFolder:
    """Paths and contents of one run. Whoever writes holds ``lock.locked(folder.path)``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def begun(self) -> bool:
        """Whether a run was set up here."""
        return (self.path / "config.json").exists()

    @property
    def finished(self) -> bool:
        """Whether the run here is over."""
        return (self.path / "summary.json").exists()

    def claim(self, overwrite: bool) -> None:
        """Make sure that nothing of value is lost. Raises CheckpointError when the folder is taken."""
        found = {item.name for item in self.path.iterdir()}
        leftovers = {name for name in found if name.startswith(".") and name.endswith(".tmp")}
        if found - leftovers <= _BEFORE_CONFIG:
            return
        if not self.begun:
            raise CheckpointError(
                f"{self.path} holds other files ({', '.join(sorted(found)[:5])}) and no run; choose another folder"
            )
        if not overwrite:
            state = "a finished run" if self.finished else "an unfinished run; `actprune resume` goes on with it"
            raise CheckpointError(f"{self.path} holds {state}; choose another folder (--out), or --overwrite it")
        self._clear()

    def _clear(self) -> None:
        """Remove what a run writes, nothing else; config.json last: a kill in between leaves a run, not a riddle."""
        try:
            for name in FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in reversed(FILES):
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise atomic.unwritable(self.path, error) from error

    def describe(self, config: dict[str, Any], recipe: dict[str, Any], environment: dict[str, Any]) -> None:
        """Write what the run is."""
        atomic.write_json(self.path / "recipe.json", recipe)
        atomic.write_json(self.path / "environment.json", environment)
        atomic.write_json(self.path / "config.json", config)

    def read(self, name: str) -> Any:
        """One of the JSON files. Raises CheckpointError."""
        if not self.begun:
            raise CheckpointError(
                f"{self.path} holds no run (no config.json); start one with `actprune run --out {self.path}`"
            )
        return atomic.read_json(self.path / name)

    # ---- epochs ----------------------------------------------------------------------------------------------------

    def append(self, row: dict[str, Any], seconds: float, cpu_seconds: float) -> None:
        """One epoch's lines."""
        atomic.append_line(self.path / "metrics.jsonl", atomic.json_line(row))
        timing = {"epoch": row["epoch"], "seconds": round(seconds, 4), "cpu_seconds": round(cpu_seconds, 4)}
        atomic.append_line(self.path / "timings.jsonl", atomic.json_line(timing))

    def rows(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """All whole lines of a file; a last line that a kill cut short is left out."""
        path = self.path / name
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}; it must hold one JSON object per line") from error

    def truncate(self, epoch: int) -> None:
        """Forget lines of epochs after ``epoch``: the run does these epochs again."""
        for name in _LINES:
            kept = [atomic.json_line(row) + "\n" for row in self.rows(name) if row["epoch"] <= epoch]
            atomic.write_bytes(self.path / name, "".join(kept).encode())

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, values: dict[str, Any], pruning_step: int | None) -> None:
        """``last.pt``, and before it the checkpoint of the pruning that just happened, if one did."""
        content = checkpoint.packed(values)
        if pruning_step is not None:
            checkpoint.save(self._checkpoint(f"pruning-step-{pruning_step:02d}"), content)
        checkpoint.save(self._checkpoint("last"), content)

    def load(self, name: str = "last") -> dict[str, Any] | None:
        """A checkpoint, or None if the run was killed before its first.

        Raises CheckpointError naming those that can be used instead.
        """
        path = self._checkpoint(name)
        if not path.exists() and name == "last" and not self.pruning_steps():
            return None
        try:
            return checkpoint.load(path)
        except CheckpointError as error:
            others = [other for other in self.pruning_steps() if other != name and self._readable(other)]
            if others:
                remedy = f"intact: {', '.join(others)}; go on with `actprune resume {self.path} --from {others[-1]}`"
            else:
                remedy = f"no other checkpoint is intact; start again with `actprune run --overwrite --out {self.path}`"
            raise CheckpointError(f"{error}; {remedy}") from error

    def pruning_steps(self) -> list[str]:
        """Names of the checkpoints of pruning steps."""
        return sorted(path.stem for path in (self.path / "checkpoints").glob("pruning-step-*.pt"))

    def _checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"

    def _readable(self, name: str) -> bool:
        try:
            checkpoint.load(self._checkpoint(name))
        except CheckpointError:
            return False
        return True
