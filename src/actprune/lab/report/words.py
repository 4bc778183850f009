"""L5: numbers in words: percent, points, times, bytes, seconds. What is no finite number becomes a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

DASH = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def number(value: Any) -> float | None:
    """A finite number as float; None for anything else that a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the range of floats
        return None


def whole(value: Any) -> str:
    """``12,345``."""
    found = number(value)
    return DASH if found is None else f"{round(found):,}"


def percent(value: Any, digits: int = 2) -> str:
    """A fraction as percent: 0.9 -> ``90.00 %``."""
    found = number(value)
    return DASH if found is None else f"{100 * found:.{digits}f}{SPACE}%"


def share(value: Any) -> str:
    """A sparsity as short as it can be told: 0.9894 -> ``98.94 %``, 0.9 -> ``90 %``."""
    found = number(value)
    return DASH if found is None else f"{100 * found:.6g}{SPACE}%"


def points(change: Any, digits: int = 2) -> str:
    """A difference of fractions in percentage points, with its sign: -0.0123 -> ``-1.23``."""
    found = number(change)
    if found is None:
        return DASH
    text = f"{abs(100 * found):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if found > 0 else MINUS}{text}"


def times(value: Any) -> str:
    """A ratio: 10.0 -> ``10.0x``."""
    found = number(value)
    return DASH if found is None else f"{found:,.1f}x" if found < 1000 else f"{found:,.0f}x"


def seconds(value: Any) -> str:
    """``4.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    found = number(value)
    if found is None:
        return DASH
    if found < 100:
        return f"{found:.1f}{SPACE}s"
    minutes, rest = divmod(round(found), 60)
    if minutes < 100:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"


def size(value: Any) -> str:
    """Bytes: ``812 B``, ``12.3 kB``, ``1.07 MB`` (powers of ten)."""
    found = number(value)
    if found is None:
        return DASH
    if found < 1000:
        return f"{found:.0f}{SPACE}B"
    return f"{found / 1e3:.1f}{SPACE}kB" if found < 1e6 else f"{found / 1e6:.2f}{SPACE}MB"


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def numbers(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The finite numbers under ``key``."""
    return [found for row in rows if (found := number(row.get(key))) is not None]


def average(values: Sequence[float]) -> float | None:
    """Mean, or None of nothing."""
    return mean(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation (n - 1), or None for fewer than two values: one run has no spread, not a spread of zero."""
    return stdev(values) if len(values) > 1 else None


def with_spread(values: Sequence[float]) -> str:
    """Fractions as ``96.30 ± 0.32 %``."""
    middle, around = average(values), spread(values)
    if middle is None or around is None:
        return percent(middle)
    return f"{100 * middle:.2f}{SPACE}±{SPACE}{100 * around:.2f}{SPACE}%"
