"""L5: what goes wrong, as the terminal shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from actprune.errors import ActpruneError
from actprune.lab.seeds import LIST


@contextmanager
def errors(debug: bool, folder: Callable[[], Path | None]) -> Iterator[None]:
    """What goes wrong on purpose becomes one clean message: exit code 2; Ctrl-C says how to go on: exit code 130."""
    console = Console(stderr=True)
    try:
        yield
    except ActpruneError as error:
        if debug:
            raise
        console.print(Text.assemble(("error: ", "bold red"), (str(error), "red")), soft_wrap=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        place = folder()
        begun = place is not None and ((place / "config.json").exists() or (place / LIST).exists())
        hint = f"; go on with: actprune resume {place}" if begun else ""
        console.print(Text(f"interrupted{hint}", style="yellow"), soft_wrap=True)
        raise typer.Exit(130) from None
