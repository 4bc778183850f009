"""L5: ``actprune report``: one self-contained HTML page on a run, on several seeds, or on a comparison.

Its charts are those of ``lab.report``, as inline SVG: no script, font or picture is fetched from anywhere.
"""

from __future__ import annotations

from pathlib import Path

from actprune.errors import CheckpointError
from actprune.lab import atomic
from actprune.lab.report.html import page_compare, page_run
from actprune.lab.report.html.page import Page, render
from actprune.lab.report.read import Run, lines, read_run, shown
from actprune.lab.report.words import number
from actprune.lab.seeds import LIST

__all__ = ["page_of", "write"]

NAME, TRIALS = "report.html", "results.jsonl"


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page on ``folder`` to ``out`` (default: report.html inside it) and return its path.

    Missing or damaged parts of a run are said on the page. Raises CheckpointError when the folder holds nothing to
    report on, its config.json is damaged, or the page cannot be written.
    """
    place = Path(folder)
    page = page_of(place)
    target = Path(out) if out is not None else place / NAME
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder; give --out the name of a file, such as {target / NAME}")
    atomic.write_bytes(target, render(page).encode())
    return target


def page_of(folder: Path) -> Page:
    """What the page says, before it is HTML. Raises CheckpointError."""
    kind = _kind(folder)
    if kind == "run":
        return page_run.of_run(read_run(folder))
    if kind == "seeds":
        return _seeds(folder)
    problems: list[str] = []
    rows = lines(folder / TRIALS, problems)
    return page_compare.of_rows(folder.resolve().name, rows, problems)


def _kind(folder: Path) -> str:
    """``compare``, ``seeds`` or ``run``. Raises CheckpointError when the folder is none of them."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; `actprune report` wants one that a run or a comparison wrote")
    for kind, name in (("compare", TRIALS), ("seeds", LIST), ("run", "config.json")):
        if (folder / name).exists():
            return kind
    raise CheckpointError(
        f"{folder} holds nothing to report on; expected config.json (`actprune run`), {LIST} (`actprune run --seeds`) "
        f"or {TRIALS} (`actprune compare`)"
    )


def _seeds(folder: Path) -> Page:
    listed = atomic.read_json(folder / LIST)
    found = listed.get("seeds") if isinstance(listed, dict) else None
    if not isinstance(found, list) or not isinstance(listed.get("config"), dict):
        raise CheckpointError(
            f"{folder / LIST} is damaged; expected the seeds and the config of `actprune run --seeds`"
        )
    seeds = [int(seed) for seed in found if number(seed) is not None]
    runs: list[Run] = [
        read_run(place) for seed in seeds if ((place := folder / f"seed-{seed}") / "config.json").exists()
    ]
    return page_run.of_seeds(folder.resolve().name, runs, seeds, shown(listed["config"]))
