"""L1: streaming statistics of activations, each a dict of SUMS, so that two of them merge by adding.

Every statistic sees ``values`` whose ``units`` lie at ``axis``; all other axes are rows (examples x positions), so any
number of leading token axes, batched and unbatched conv outputs all count the same way.
"""

from __future__ import annotations

from collections.abc import Callable

from actprune.errors import RecipeError, unknown_name
from actprune.stats.firing import Firing, Scratch
from actprune.stats.moments import InputMoments, MeanAbs, OutputMoments
from actprune.stats.rows import SHARED, merge, rows_of
from actprune.stats.running import Accumulator, accumulator
from actprune.types import Need, Statistic

__all__ = [
    "SHARED",
    "Accumulator",
    "Firing",
    "InputMoments",
    "MeanAbs",
    "OutputMoments",
    "Scratch",
    "accumulator",
    "make",
    "merge",
    "names",
    "rows_of",
]

_PLAIN: dict[str, Callable[[], Statistic]] = {
    "mean_abs": MeanAbs,
    "output_moments": OutputMoments,
    "input_moments": InputMoments,
}


def names() -> tuple[str, ...]:
    """The names ``make`` knows."""
    return ("firing", *_PLAIN)


def make(need: Need) -> Statistic:
    """The statistic a criterion asks for. Raises RecipeError for an unknown name or a threshold that means nothing."""
    if need.statistic == "firing":
        return Firing(need.fires_above)
    if need.statistic not in _PLAIN:
        raise RecipeError(unknown_name("statistic", need.statistic, names()))
    if need.fires_above is not None:
        raise RecipeError(
            f"fires_above={need.fires_above!r} was asked of statistic {need.statistic!r}, which counts no firings; "
            "leave it out, or ask for 'firing'"
        )
    return _PLAIN[need.statistic]()
