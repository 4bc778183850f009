"""The lowest of every row, and n:m patterns: selections that stay inside small groups of one layer.

Equal scores go in the order of their tie keys (``ties``), as in the threshold through many layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from actprune.errors import RecipeError
from actprune.rank import ties
from actprune.scopes import NM

_AT_ONCE = 1 << 18  # weights ranked together


def lowest_of_rows(name: str, scores: Tensor, alive: Tensor | None, counts: Tensor, seed: int) -> Tensor:
    """Bool of the shape of ``scores`` ``(out, in, *kernel)``, True = removed: row i loses its ``counts[i]`` lowest.

    Only ``alive`` weights are removed; ``counts`` must not ask for more of them than there are.
    """
    width = scores[0].numel()
    removed = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for part, keys in _bands(name, scores, seed):
        competing = None if alive is None else alive[part].flatten(1)
        goes = _lowest(scores[part].flatten(1), keys.view(-1, width), competing, counts[part].to(scores.device))
        removed[part] = goes.view(removed[part].shape)
    return removed


def lowest_of_nm(scope: NM, name: str, scores: Tensor, alive: Tensor | None, seed: int) -> Tensor:
    """Bool of the shape of ``scores``, True = removed: of every ``m`` consecutive inputs (axis 1, per output and kernel
    position) all alive ones but the ``n`` best. Raises RecipeError where the inputs are not a multiple of ``m``.
    """
    require_multiple(scope, name, tuple(scores.shape))
    removed = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for part, keys in _bands(name, scores, seed):
        band = scores[part].movedim(1, -1)
        groups = band.reshape(-1, scope.m)
        competing = None if alive is None else alive[part].movedim(1, -1).reshape(-1, scope.m)
        have = torch.full((len(groups),), scope.m, device=scores.device) if competing is None else competing.sum(1)
        ranked = keys.view(scores[part].shape).movedim(1, -1).reshape(-1, scope.m)
        goes = _lowest(groups, ranked, competing, (have - scope.n).clamp_(min=0))
        removed[part] = goes.view(band.shape).movedim(-1, 1)
    return removed


def require_multiple(scope: NM, name: str, shape: tuple[int, ...]) -> None:
    """Raises RecipeError if the layer's inputs cannot be cut into groups of ``m``."""
    if shape[1] % scope.m:
        raise RecipeError(
            f"{scope.n}:{scope.m} pattern asked for {name!r} with shape {shape}, but its {shape[1]} inputs are not a "
            f"multiple of {scope.m}; leave the layer out with skip=({name.removesuffix('.weight')!r},) or change m"
        )


def row_counts(total: int, least: Tensor, most: Tensor, keys: Tensor) -> Tensor:
    """``total`` distributed over rows as evenly as the bounds ``least <= count <= most`` allow (all int64 ``(rows,)``).

    What does not divide goes, one each, to the rows with the lowest ``keys``. Needs least.sum() <= total <= most.sum().
    """

    def at(level: int) -> Tensor:
        return torch.clamp(torch.full_like(least, level), min=least, max=most)

    low, high = 0, int(most.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(at(middle).sum()) <= total else (low, middle - 1)
    counts = at(low)
    rises = (at(low + 1) > counts).nonzero().squeeze(1)
    counts[rises[keys[rises].argsort()][: total - int(counts.sum())]] += 1
    return counts


def _lowest(scores: Tensor, keys: Tensor, alive: Tensor | None, counts: Tensor) -> Tensor:
    """Of every row of ``(groups, size)`` the ``counts`` lowest, by stable sorts from the least important key on."""
    order = keys.argsort(1)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, stable=True))
    if alive is not None:
        order = order.gather(1, (~alive).gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    goes = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    return torch.zeros_like(goes).scatter_(1, order, goes)


def _bands(name: str, scores: Tensor, seed: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of whole rows, and the tie keys of the weights in them."""
    width = math.prod(scores.shape[1:])
    rows = max(1, _AT_ONCE // max(1, width))
    for start in range(0, scores.shape[0], rows):
        stop = min(start + rows, scores.shape[0])
        yield slice(start, stop), ties.unit_keys(name, (stop - start) * width, seed, scores.device, start * width)
