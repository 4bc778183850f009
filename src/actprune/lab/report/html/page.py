"""L5: the parts of a page, and the page itself: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from actprune.lab.report.charts import Chart


@dataclass(frozen=True)
class Card:
    """A key figure: what it is, the figure, and a word beside it."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table. ``kind``: best, close, bad, name, text, or nothing for a plain number.

    detail: shown under the pointer. below: shown in small letters under the text.
    """

    text: str
    kind: str = ""
    detail: str = ""
    below: str = ""


@dataclass(frozen=True)
class Table:
    """The first column names the row. ``folded``: behind a line that opens it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it, in this order: lead, charts, tables."""

    title: str
    lead: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()

    @property
    def id(self) -> str:
        """For links inside the page."""
        return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in self.title.lower())

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.charts or self.tables)


@dataclass(frozen=True)
class Page:
    """Everything on it, as plain text (escaped by the template) and as charts (which escape by themselves)."""

    kind: str
    title: str
    subtitle: str
    badge: str
    tone: str
    sentences: Sequence[str]
    notes: Sequence[str]
    cards: Sequence[Card]
    sections: Sequence[Section]
    commands: Sequence[str]
    details: Sequence[Table] = ()
    recipe: str = ""
    problems: Sequence[str] = field(default_factory=tuple)


def render(page: Page) -> str:
    """The HTML text. Raises CheckpointError when jinja2 is not installed."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        from actprune.errors import CheckpointError

        raise CheckpointError("a report needs jinja2; install it with `pip install 'actprune[lab]'`") from error
    places = Environment(
        loader=PackageLoader("actprune.lab.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    places.filters["code"] = _code
    shown = [section for section in page.sections if not section.empty]
    return places.get_template("page.html").render(page=page, sections=shown, numbers=count(1))


def _code(text: str) -> str:
    """Escape, then set what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:  # an odd number of backticks: they mean something else
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))
