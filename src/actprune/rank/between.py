"""The exact threshold for many needs that lie close together."""

from __future__ import annotations

import torch
from torch import Tensor

from actprune.rank import ties
from actprune.rank.threshold import Lowest, Read, common


class Between:
    """What ``lowest`` says for any need between two answers of it, from the units that lie between them, in order.

    The gathered units take 24 bytes each.
    """

    def __init__(self, read: Read, low: Lowest, high: Lowest, seed: int) -> None:
        self._low = low
        slots = ties.slots(low.removed)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for scored in read():
            place = (high.removed[scored.name] & ~low.removed[scored.name]).view(-1).nonzero().squeeze(1)
            cost = scored.cost if isinstance(scored.cost, int) else scored.cost.view(-1)[place]
            costs = torch.full_like(place, cost) if isinstance(cost, int) else cost
            ids = place + (slots[scored.name] << ties.INDEX_BITS)
            found.append((scored.scores.reshape(-1)[place].cpu(), ids.cpu(), costs.cpu()))
            del scored
        dtype = common({values.dtype for values, _, _ in found})
        found = [(values.to(dtype), ids, costs) for values, ids, costs in found]
        values, ids, costs = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = ties.keys(ids, seed).argsort()
        order = order[values[order].argsort(stable=True)]
        self._ids, self._reached = ids[order], costs[order].cumsum(0)
        self._slots = slots

    def lowest(self, need: int) -> dict[str, Tensor]:
        """``lowest(read, need, seed).removed``."""
        removed = {name: marks.clone() for name, marks in self._low.removed.items()}
        if need > self._low.cost:
            ids = self._ids[: int(torch.searchsorted(self._reached, need - self._low.cost)) + 1]
            slot, place = ids >> ties.INDEX_BITS, ids & ((1 << ties.INDEX_BITS) - 1)
            for name, marks in removed.items():
                marks.view(-1)[place[slot == self._slots[name]].to(marks.device)] = True
        return removed
