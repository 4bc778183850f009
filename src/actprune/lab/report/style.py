"""L5: what all charts share: colours, fonts, panels, saving to a file and embedding in a page.

matplotlib's object interface only, no pyplot state. A chart is drawn once, in the colours of the light page; inside a
page every colour of ``THEME`` becomes the page's CSS variable, so that the same chart follows it into the dark.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from actprune.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW, PANEL = 9.0, 4.4, 3.6
"""Inches: over the whole page and in files, over a phone's screen, one of several side by side."""

INK, MUTED, RULE, EDGE = "#1b1f24", "#59616b", "#e3e6ea", "#cdd2d8"
SERIES = ("#0072b2", "#d55e00", "#008a64", "#b4558c", "#a87400", "#2b8cc4", "#4a4f57")
"""Okabe and Ito's palette without yellow, which no light page carries, and somewhat darker."""
BLUE, VERMILION, GREEN = SERIES[:3]
MOST_PRUNING_STEPS = 8
"""Rows or lines that can still be told apart; more pruning steps are thinned out evenly, first and last kept."""
RAMP = tuple(
    "#"
    + "".join(f"{round(a + (b - a) * i / (MOST_PRUNING_STEPS - 1)):02x}" for a, b in ((116, 0), (168, 48), (208, 79)))
    for i in range(MOST_PRUNING_STEPS)
)
"""An ordered scale: the first is light, the last dark."""
THEME = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", EDGE: "--edge",
    **{colour: f"--s{i}" for i, colour in enumerate(SERIES, start=1)},
    **{colour: f"--r{i}" for i, colour in enumerate(RAMP, start=1)},
}  # fmt: skip
"""Every colour of a chart, with the variable of page.css that takes its place."""

_SETTINGS = {
    "font.size": 9,
    "figure.titlesize": 10,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.labelcolor": INK,
    "axes.edgecolor": EDGE,
    "axes.facecolor": "none",
    "xtick.color": EDGE,
    "ytick.color": EDGE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "image.composite_image": False,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "actprune",  # equal data gives an equal file, so that committed figures do not change by themselves
}
_METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
}


@contextmanager
def canvas(width: float, height: float, path: Path | None = None) -> Iterator[Figure]:
    """A figure of ``width x height`` inches; where ``path`` is given, it is saved there when the block ends well.

    Raises DataError for a suffix other than .png, .svg and .pdf, and CheckpointError when the file cannot be written.
    """
    if path is not None and Path(path).suffix not in _METADATA:
        raise DataError(f"cannot save a figure as {path}; expected a name that ends in {', '.join(_METADATA)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _settings():
        figure = Figure(figsize=(width, height), facecolor="none")
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", h_pad=0.06, hspace=0.04, wspace=0.05)
        yield figure
        _settle(figure)
    if path is not None:
        save(figure, Path(path))


def save(figure: Figure, path: Path) -> None:
    """Write a figure on white; a half-written file never appears under the final name. Raises CheckpointError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        _write(figure, partial, format=path.suffix[1:], facecolor="white", metadata=_METADATA[path.suffix])
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}; check folder, rights, space") from error


def inline(figure: Figure, name: str, label: str, kind: str = "") -> str:
    """A figure as ``<svg>`` inside an HTML page, on the page's own ground and in its colours.

    name: begins every id, so that no two figures of a page share one. label: read out aloud. kind: further classes.
    """
    written = io.BytesIO()
    _write(
        figure, written, format="svg", facecolor="none", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    tree = ElementTree.fromstring(written.getvalue())
    _rename(tree, name)
    box = tree.get("viewBox", "")
    tree.attrib.clear()
    head = f'<svg class="{escape(f"plot {kind}".strip())}" viewBox="{box}" role="img" aria-label="{escape(label)}">'
    return head + "".join(ElementTree.tostring(part, "unicode") for part in tree if part.tag != "metadata") + "</svg>"


def _settle(figure: Figure) -> None:
    """Lay out once, to a millionth: the solver's last digits differ from call to call, and ids are made from them."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_text(_printable(text.get_text()))
    with _settings():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position().bounds, 6))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((round(x, 6), round(y, 6)))


def _write(figure: Figure, target: Any, **how: Any) -> None:
    with _settings():
        figure.savefig(target, dpi=150, **how)


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in letters that the font lacks
        yield


def _printable(text: str) -> str:
    """Without characters that no XML file may hold."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)


def _rename(tree: ElementTree.Element, name: str) -> None:
    """Plain names instead of XML namespaces, ids that begin with ``name``, CSS variables instead of colours."""
    parts = list(tree.iter())
    used = {found for part in parts for value in part.attrib.values() for found in _REFERENCE.findall(value)}
    ids = {old: f"{name}-{i}" for i, old in enumerate(sorted(used))}
    for part in parts:
        part.tag = part.tag.rpartition("}")[2]
        part.tail, part.text = None, part.text if part.tag == "text" else None
        own = {key.rpartition("}")[2]: value for key, value in part.attrib.items()}
        if own.get("id") not in ids:
            own.pop("id", None)
        part.attrib.clear()
        part.attrib.update({key: _own(key, value, ids) for key, value in own.items()})
        for rule in part.findall("{http://www.w3.org/2000/svg}style"):  # it would hold for the whole page
            part.remove(rule)


_REFERENCE = re.compile(r"(?<![^(])#([\w-]+)(?=\)|$)")
_FONT = re.compile(r"font: (?:\w+ )??([\d.]+px)[^;]*")


def _own(key: str, value: str, ids: Mapping[str, str]) -> str:
    """An attribute with the page's ids, font and colours, and paths to a hundredth of a point."""
    if key == "id":
        return ids[value]
    if key == "d":
        return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
    value = _REFERENCE.sub(lambda found: f"#{ids.get(found[1], found[1])}", value)
    return re.sub(
        r"#[0-9a-f]{6}\b", lambda found: f"var({THEME[found[0]]})" if found[0] in THEME else found[0],
        _FONT.sub(r"font-size: \1", value),
    )  # fmt: skip


def shades(count: int) -> list[str]:
    """``count`` colours of the ordered scale, at most eight; a single one is blue."""
    return [RAMP[i] for i in np.linspace(0, len(RAMP) - 1, count).round().astype(int)] if count > 1 else [BLUE]


def chosen(count: int, most: int) -> list[int]:
    """At most ``most`` of ``range(count)``, evenly spread, first and last included."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def across(names: Sequence[str], width: float, each: float) -> int:
    """How many panels of about ``each`` inches stand side by side, the last line as full as it gets."""
    lines = -(-len(names) // max(1, int(width / each)))
    return max(1, -(-len(names) // max(1, lines)))


def panels(figure: Figure, names: Sequence[str], columns: int, rows: int = 1) -> dict[str, list[Axes]]:
    """Axes by name, ``rows`` below each other; what does not fit into ``columns`` goes on below."""
    lines = -(-len(names) // columns)
    plots = figure.subplots(rows * lines, columns, squeeze=False)
    for axes in plots[rows * (lines - 1) :, len(names) - columns * (lines - 1) :].ravel():
        axes.set_axis_off()
    return {
        name: [plots[rows * (i // columns) + row, i % columns] for row in range(rows)] for i, name in enumerate(names)
    }


def legend(figure: Figure, handles: Mapping[str, Any], width: float) -> None:
    """Entries below the plots, in as many columns as fit; a name that matplotlib would hide is shown too."""
    names = [f" {name}" if name.startswith("_") else name for name in map(brief, handles)]
    columns = legend_columns(names, width)
    figure.legend(list(handles.values()), names, loc="outside lower center", ncols=columns, handlelength=1.8)


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many entries of a legend stand side by side, every line about as full as the others."""
    return across(names, width, 0.55 + 0.08 * max(map(len, map(brief, names)), default=0))


def layer_names(pruning_steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every layer of any pruning step, in order of first appearance. Raises DataError when there is none."""
    names = list(dict.fromkeys(name for pruning_step in pruning_steps for name in pruning_step))
    if not names:
        raise DataError(
            f"a figure over {len(pruning_steps)} pruning steps was asked, without a single layer; "
            "run at least one pruning step first"
        )
    return names


def caption(title: str, shown: int, total: int) -> str:
    """The title, with a note when pruning steps were left out."""
    return title if shown == total else f"{title} ({shown} of {total} pruning steps shown)".strip()


def step_names(labels: Sequence[str], count: int) -> list[str]:
    """The labels given, or "pruning step 1" and so on. Raises DataError when there are too many or too few."""
    if labels and len(labels) != count:
        raise DataError(f"{len(labels)} labels for {count} pruning steps; give one per pruning step, or none")
    return list(labels) or [f"pruning step {i + 1}" for i in range(count)]


def brief(name: str, most: int = 28) -> str:
    """A name that fits beside a plot: of a long one, the end; of one with odd characters, the others."""
    name = _printable(name)
    return name if len(name) <= most else "…" + name[1 - most :]
