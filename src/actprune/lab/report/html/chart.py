"""L5: a plot with its heading, legend and a sentence on how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from actprune.lab.report.html.svg import SHAPES, mark

COLOURS = 7
"""Series colours of the page, ``--s1`` to ``--s7``: Okabe and Ito's, without yellow, which no light page carries."""


@dataclass(frozen=True)
class Legend:
    """One entry; ``series`` ties it to the marks that it lights up."""

    name: str
    mark: str
    series: str = ""


@dataclass(frozen=True)
class Chart:
    """``svg`` is safe: the plots escape what they draw. ``small``: one of several side by side."""

    title: str
    svg: str
    caption: str = ""
    legend: Sequence[Legend] = field(default_factory=tuple)
    small: bool = False


def colour(index: int) -> str:
    """The colour of the series with this number."""
    return f"var(--s{index % COLOURS + 1})"


def dashed(index: int) -> str:
    """Series beyond the seven colours are dashed, those beyond fourteen dotted."""
    return ("", "dashed", "dotted")[index // COLOURS % 3]


def entry(name: str, index: int, series: str = "") -> Legend:
    """The legend of a series drawn in ``colour(index)`` with marks of its own."""
    return Legend(name, mark(shape(index), colour(index)), series or name)


def shape(index: int) -> int:
    """Colour and mark change together at first, then against each other: no pair comes twice among 35."""
    return (index + index // COLOURS) % SHAPES


def swatch(name: str, css: str, kind: str = "") -> Legend:
    """A line in a colour given as CSS."""
    line = f'<line class="line {kind}" style="stroke:{css}" x1="0" x2="22" y1="6" y2="6"/>'
    return Legend(name, f'<svg class="mark long" viewBox="0 0 22 12" aria-hidden="true">{line}</svg>')
