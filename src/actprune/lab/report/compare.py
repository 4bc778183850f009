"""L5: what a comparison leaves in its folder: table.md, accuracy.svg and accuracy.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actprune import atomic
from actprune.lab.atomic import unwritable
from actprune.lab.compare.aggregate import Panel
from actprune.lab.report import compare_article, compare_plot, compare_table


def write(panels: Sequence[Panel], out: Path, points: float, notes: dict[str, str], *, article: bool) -> list[Path]:
    """Draw everything from the panels. article: also article.md. Raises CheckpointError when it cannot be written."""
    files = [out / "table.md"]
    atomic.write_bytes(files[0], compare_table.markdown(panels, points, notes).encode(), unwritable)
    if article:
        files.append(out / "article.md")
        atomic.write_bytes(files[-1], compare_article.markdown(panels).encode(), unwritable)
    if any(panel.baselines for panel in panels):
        for path in (out / "accuracy.svg", out / "accuracy.png"):
            compare_plot.accuracy(panels, path)
            files.append(path)
    return files
