"""L5: a plot as inline SVG: scales, ticks, lines, bands, and columns that tell their values under the pointer.

Colours are CSS variables, so that a plot follows the page from light to dark. Every text that comes from outside is
escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

Point = tuple[float, float]
WIDE, NARROW, PANEL = (820, 350), (360, 330), (320, 215)
"""Sizes: over the whole page, over a phone's screen, one of several side by side."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 46
_CHARACTER = 6.6  # width of a tick's character, about


@dataclass(frozen=True)
class Axis:
    """What an axis measures. ``write`` makes a tick's text; ``ticks`` replaces those that are chosen by itself."""

    label: str
    low: float
    high: float
    log: bool = False
    write: Callable[[float], str] = lambda value: f"{value:g}"
    ticks: Sequence[float] | None = None

    def at(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        if self.log:
            value = max(value, self.low * 1e-3)
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (here - low) / (high - low) if high > low else 0.5

    def inside(self, value: float) -> float:
        """The value, or the end of the axis beyond which it lies."""
        return min(max(value, self.low), self.high)

    def marks(self, room: float) -> Sequence[float]:
        """Ticks, no closer than about ``room`` (a share of the axis)."""
        if self.ticks is not None:
            return self.ticks
        most = max(2, int(1 / room))
        return log_ticks(self.low, self.high, most) if self.log else ticks(self.low, self.high, most)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most about ``most`` round numbers (1, 2, 5 times a power of ten) from low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 times powers of ten from low to high, or the powers alone when that is too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    found = [value for value in every if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    if len(found) <= most:
        return found or [low, high]
    tens = [value for value in found if math.isclose(math.log10(value), round(math.log10(value)))]
    return tens[:: max(1, math.ceil(len(tens) / most))] if len(tens) > 1 else found[:: math.ceil(len(found) / most)]


@dataclass
class Plot:
    """One plot. Marks are added in data units; ``render`` returns the ``<svg>``. ``label`` is read out aloud."""

    label: str
    x: Axis
    y: Axis
    size: tuple[int, int] = WIDE
    parts: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    columns: list[tuple[float, str]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """The frame's left edge: as far in as the widest tick of the vertical axis needs."""
        widest = max((len(self.y.write(value)) for value in self._y_marks()), default=0)
        return max(_LEFT - 18, 34 + widest * _CHARACTER)

    @property
    def inner(self) -> tuple[float, float]:
        """Width and height inside the axes."""
        return self.size[0] - self.left - _RIGHT, self.size[1] - _TOP - _BOTTOM

    def place(self, point: Point) -> Point:
        """Data units -> units of the picture."""
        width, height = self.inner
        return self.left + width * self.x.at(point[0]), _TOP + height * (1 - self.y.at(point[1]))

    def line(self, points: Sequence[Point], colour: str, *, kind: str = "", series: str = "") -> None:
        """A line through points; ``kind``: classes such as ``dashed`` or ``thin``."""
        if points:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, points))
            self._add(f'<polyline class="line {kind}" style="stroke:{colour}" points="{path}"/>', series, self.lines)

    def band(self, low: Sequence[Point], high: Sequence[Point], colour: str, *, series: str = "") -> None:
        """The area between two lines."""
        corners = [*map(self.place, low), *map(self.place, reversed(high))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self._add(f'<polygon class="band" style="fill:{colour}" points="{path}"/>', series, self.lines)

    def dot(self, point: Point, colour: str, tip: str = "", *, shape: int = 0, series: str = "") -> None:
        """A mark with a text under the pointer; a hollow one at the edge stands for a point beyond it.

        shape: 0 circle, 1 square, 2 diamond, 3 and 4 triangles.
        """
        at = (self.x.inside(point[0]), self.y.inside(point[1]))
        x, y = self.place(at)
        kind = "dot" if at == point else "dot out"
        title = f"<title>{escape(tip)}</title>" if tip else ""
        self._add(f'<path class="{kind}" style="--c:{colour}" d="{_shape(shape, x, y)}">{title}</path>', series)

    def bar(self, start: Point, end: Point, colour: str, tip: str = "") -> None:
        """A filled rectangle between two corners."""
        (x0, y0), (x1, y1) = self.place(start), self.place(end)
        title = f"<title>{escape(tip)}</title>" if tip else ""
        at = f'x="{min(x0, x1):.1f}" y="{min(y0, y1):.1f}" width="{abs(x1 - x0):.1f}" height="{abs(y1 - y0):.1f}"'
        self._add(f'<rect class="bar" style="fill:{colour}" {at}>{title}</rect>')

    def upright(self, x: float, text: str = "") -> None:
        """A vertical line over the whole height, with a short text at its top."""
        at = self.place((x, self.y.low))[0]
        self._add(_stroke("upright", at, _TOP, at, _TOP + self.inner[1]))
        if text:
            self._add(_text("small", at + 3, _TOP + 9, text, "start"))

    def column(self, x: float, tip: str) -> None:
        """What the pointer (or the arrow keys) shows around ``x``."""
        self.columns.append((self.place((x, self.y.low))[0], tip))

    def render(self, kind: str = "") -> str:
        """The whole picture."""
        width, height = self.size
        live = ' tabindex="0"' if self.columns else ""
        spoken = f'role="img" aria-label="{escape(self.label)}"'
        head = f'<svg class="plot {kind}" viewBox="0 0 {width} {height}" {spoken}{live}>'
        return "".join([head, *self._frame(), *self._clipped(), *self.parts, *self._hits(), "</svg>"])

    def _add(self, mark: str, series: str = "", to: list[str] | None = None) -> None:
        target = self.parts if to is None else to
        target.append(f'<g data-series="{escape(series)}">{mark}</g>' if series else mark)

    def _clipped(self) -> list[str]:
        """Lines and bands, cut off where the frame ends, but for half a line's width."""
        if not self.lines:
            return []
        (width, height), more = self.inner, 3
        box = f"{self.left - more:.1f} {_TOP - more} {width + 2 * more:.1f} {height + 2 * more}"
        x, y, wide, high = box.split()
        return [f'<svg x="{x}" y="{y}" width="{wide}" height="{high}" viewBox="{box}">', *self.lines, "</svg>"]

    def _y_marks(self) -> Sequence[float]:
        return self.y.marks(30 / (self.size[1] - _TOP - _BOTTOM))

    def _frame(self) -> list[str]:
        """Grid, ticks and the axes' names."""
        (width, height), out = self.inner, []
        left, right, bottom = self.left, self.left + self.inner[0], _TOP + height
        for value in self._y_marks():
            y = self.place((self.x.low, value))[1]
            out.append(_stroke("rule", left, y, right, y))
            out.append(_text("tick", left - 7, y + 4, self.y.write(value), "end"))
        for value in self.x.marks(46 / width):
            x = self.place((value, self.y.low))[0]
            out.append(_stroke("notch", x, bottom, x, bottom + 4))
            out.append(_text("tick", x, bottom + 18, self.x.write(value)))
        out.append(_stroke("axis", left, bottom, right, bottom))
        out.append(_text("name", left + width / 2, self.size[1] - 8, self.x.label))
        turned = _text("name", 0, 0, self.y.label)
        return [*out, f'<g transform="translate(13 {_TOP + height / 2:.1f}) rotate(-90)">{turned}</g>']

    def _hits(self) -> list[str]:
        """Invisible columns from half-way to half-way, each with its text; and the crosshair."""
        if not self.columns:
            return []
        found = sorted(self.columns)
        places = [x for x, _ in found]
        edges = [self.left, *((a + b) / 2 for a, b in pairwise(places)), self.left + self.inner[0]]
        out = [f'<line class="cross" x1="0" x2="0" y1="{_TOP}" y2="{_TOP + self.inner[1]}"/>']
        for (x, tip), (start, stop) in zip(found, pairwise(edges), strict=True):
            out.append(
                f'<rect class="hit" data-x="{x:.1f}" x="{start:.1f}" y="{_TOP}" width="{max(stop - start, 0):.1f}" '
                f'height="{self.inner[1]}"><title>{escape(tip)}</title></rect>'
            )
        return out


def _stroke(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


SHAPES = 5


def _shape(which: int, x: float, y: float, r: float = 4.2) -> str:
    """Path of a mark; different shapes tell series apart without colour."""
    if which % SHAPES == 0:
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1 0 {2 * r},0a{r},{r} 0 1 0 {-2 * r},0"
    corners = {
        1: ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
        2: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        3: ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        4: ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
    }[which % SHAPES]
    return "M" + "L".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners) + "Z"


def mark(shape: int, colour: str) -> str:
    """A mark alone, for a legend."""
    return (
        '<svg class="mark" viewBox="0 0 12 12" aria-hidden="true">'
        f'<path class="dot" style="--c:{colour}" d="{_shape(shape, 6, 6)}"/></svg>'
    )


def both(draw: Callable[[tuple[int, int]], Plot]) -> str:
    """The same plot for wide screens and for phones, where a wide one's text would be too small; CSS shows one."""
    return draw(WIDE).render("wide") + draw(NARROW).render("narrow")


def around(values: Sequence[float], room: float = 0.06, least: float = 0.0) -> tuple[float, float]:
    """Limits that hold all values with some room, at least ``least`` apart."""
    low, high = min(values), max(values)
    extra = max((high - low) * room, (least - (high - low)) / 2, 1e-9)
    return low - extra, high + extra


def steps(count: int) -> list[str]:
    """``count`` colours of an ordered scale, faint to strong, mixed by the browser so that they fit both themes."""
    if count == 1:
        return ["var(--s1)"]
    return [f"color-mix(in oklab, var(--ramp-b) {round(100 * i / (count - 1))}%, var(--ramp-a))" for i in range(count)]
