"""L1: quantiles of Student's t distribution for whole degrees of freedom, without scipy."""

from __future__ import annotations

import math


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t). Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2 == 1
    term = total = cosine if odd else 1.0
    for k in range(2 if odd else 1, freedom - 1, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    if odd:
        inside = angle + (math.sin(angle) * total if freedom > 1 else 0.0)
        return 0.5 + inside / math.pi
    return 0.5 + 0.5 * math.sin(angle) * total


def t_quantile(p: float, freedom: int) -> float:
    """The t with P(T <= t) = p, for 0.5 <= p < 1, by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return high
