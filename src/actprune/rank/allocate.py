"""Integer budgets per layer, for the scopes that fix how much every layer loses.

Costs are weights or FLOP, whatever the budget counts. The integers sum exactly to what was asked for (largest
remainder), never fall below what is removed already and never exceed what may be removed.

``uniform``  every layer loses the same fraction.
``erk``      a layer's density is proportional to (sum of dimensions) / (product of dimensions), kernel included;
             layers that would exceed 1 stay dense and the rest is solved again (RigL, arXiv 1911.11134, appendix; SET).
``staged``   the local scope of activation-based pruning (doi 10.3390/a17010048): pruning step i prunes layer i, in
             execution order, by the full fraction; the layers after it are untouched.
``Rates``    a layer keeps ``k ** rate``: iterative magnitude pruning with a slower output layer (arXiv 1803.03635),
             or densities per layer as somebody published them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from fractions import Fraction

from actprune.errors import BudgetError
from actprune.scopes import Allocation, Share


def allocate(allocation: Allocation, shares: Sequence[Share], target: int, pruning_step: int = 0) -> list[int]:
    """Removal per layer, what is removed already included; the sum is ``target`` (or what is removed, if that is more).

    ``staged``: ``target`` is what all layers together lose in the end; only the first ``pruning_step + 1`` layers take
    their part. Raises BudgetError when the layers cannot lose that much.
    """
    total = sum(share.cost for share in shares)
    if allocation == "staged":
        turn, rest = shares[: pruning_step + 1], shares[pruning_step + 1 :]
        due = round_half_up(Fraction(target * sum(share.cost for share in turn), total))
        return _fit([Fraction(target * share.cost, total) for share in turn], turn, due) + [
            share.removed for share in rest
        ]
    if allocation == "uniform":
        return _fit([Fraction(target * share.cost, total) for share in shares], shares, target)
    kept = erk_densities(shares, target) if allocation == "erk" else allocation.densities(shares, target)
    return _fit([share.cost * (1 - density) for share, density in zip(shares, kept, strict=True)], shares, target)


def erk_densities(shares: Sequence[Share], target: int) -> list[Fraction]:
    """Kept fraction per layer such that a cost of ``target`` is removed in all."""
    raw = [Fraction(sum(share.shape), math.prod(share.shape)) for share in shares]
    dense: set[int] = set()
    while True:
        free = [place for place in range(len(shares)) if place not in dense]
        kept = sum(shares[place].cost for place in free) - target
        scale = kept / sum((shares[place].cost * raw[place] for place in free), Fraction(0)) if free else Fraction(0)
        over = {place for place in free if scale * raw[place] > 1}
        if not over:
            return [Fraction(1) if place in dense else scale * raw[place] for place in range(len(shares))]
        dense |= over


def round_half_up(value: Fraction | float) -> int:
    """Nearest integer, halves up; the rule by which every target fraction becomes a number of weights or FLOP."""
    return math.floor(value + Fraction(1, 2)) if isinstance(value, Fraction) else math.floor(value + 0.5)


def _fit(ideal: Sequence[Fraction], shares: Sequence[Share], target: int) -> list[int]:
    """Integers nearest to ``ideal`` within the bounds, with the exact sum."""
    possible = sum(share.removable for share in shares)
    if target > possible:
        raise BudgetError(
            f"asked to remove {target} from {len(shares)} layers; only {possible} may be removed "
            f"({', '.join(f'{share.name}: {share.removable} of {share.cost}' for share in shares)}); ask for less, "
            "lower keep_at_least=, or prune more layers"
        )
    target = max(target, sum(share.removed for share in shares))
    exact = _within(ideal, shares, target)
    counts = [
        min(max(math.floor(value), share.removed), share.removable) for value, share in zip(exact, shares, strict=True)
    ]
    remainder = [value - count for value, count in zip(exact, counts, strict=True)]
    while missing := target - sum(counts):
        step = 1 if missing > 0 else -1
        room = [
            place
            for place, share in enumerate(shares)
            if (counts[place] < share.removable if step > 0 else counts[place] > share.removed)
        ]
        for place in sorted(room, key=lambda place: -step * remainder[place])[: abs(missing)]:
            counts[place] += step
            remainder[place] -= step
    return counts


def _within(ideal: Sequence[Fraction], shares: Sequence[Share], target: int) -> list[Fraction]:
    """``ideal``, scaled by one factor and held within the bounds, so that the sum is ``target``.

    A layer whose ideal is 0 (dense by ERK) takes part only when the others cannot give enough; then they share by room.
    """
    pairs = list(zip(ideal, shares, strict=True))
    most = [Fraction(share.removable if value > 0 else share.removed) for value, share in pairs]
    lacking = target - sum(most)
    if lacking > 0:
        room = sum(share.removable for share in shares) - sum(most)
        return [value + lacking * (share.removable - value) / room for value, share in zip(most, shares, strict=True)]

    def held(scale: Fraction) -> list[Fraction]:
        return [min(max(value * scale, Fraction(share.removed)), Fraction(share.removable)) for value, share in pairs]

    # The sum is piecewise linear in the factor; it bends where a layer meets one of its bounds.
    bends = sorted(
        {Fraction(bound) / value for value, share in pairs if value > 0 for bound in (share.removed, share.removable)}
    )
    place = bisect.bisect_left(bends, Fraction(target), key=lambda scale: sum(held(scale), Fraction(0)))
    if place == 0:
        return held(bends[0]) if bends else most
    low, high = bends[place - 1], bends[place]
    start, end = sum(held(low)), sum(held(high))
    return held(low + (high - low) * (target - start) / (end - start))
