"""L5: ``actprune report``: a folder of results as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actprune.lab.cli import options as o
from actprune.lab.cli.problems import errors
from actprune.lab.cli.show_ship import terminal


def report_command(
    folder: Annotated[
        Path, typer.Argument(help="What `run` (one seed or several) or `compare` wrote.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the folder if left out.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write one HTML page: verdict, tables, plots, configuration, and how to repeat it. It loads nothing from anywhere.

    [bold]Examples[/bold]

      actprune report runs/digits-activation-90-seed0

      actprune report runs/compare --out comparison.html --open
    """
    with errors(debug, lambda: None):
        from actprune.lab.report.html import write

        page = write(folder, out)
        terminal(quiet=quiet).print(f"wrote {page}, {page.stat().st_size:,} bytes", highlight=False, markup=False)
        if show:
            typer.launch(page.resolve().as_uri())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report_command)
