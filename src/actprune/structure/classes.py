"""L2: classes of indices that can only be removed together: who met whom, and what must stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

PINNED = 0


class Classes:
    """Every index of every axis of every parameter is a member; ``join`` says that two must go together.

    Nothing is decided before ``solved``: pairs are only noted, so a pass over a network costs no search.
    """

    def __init__(self) -> None:
        self._count = 1
        self._pairs: list[Tensor] = []
        self._pins: list[tuple[Tensor, str]] = []

    def fresh(self, count: int) -> Tensor:
        """``count`` new members, each a class of its own: int64 ``(count,)``."""
        self._count += count
        return torch.arange(self._count - count, self._count)

    def join(self, left: Tensor, right: Tensor) -> None:
        """Element by element, ``left`` and ``right`` (broadcast against each other) must go together."""
        if left is not right:
            both = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]
            self._pairs.append(torch.stack([each.reshape(-1) for each in both]))

    def pin(self, members: Tensor, why: str) -> None:
        """None of them may go; ``why`` is a sentence's end, told to the user."""
        if members.numel():
            self._pins.append((members.reshape(-1), why))

    def solved(self) -> Solved:
        """The classes as they stand."""
        pins = [torch.stack([members, torch.zeros_like(members)]) for members, _ in self._pins]
        return Solved(_roots(self._count, [*self._pairs, *pins]), self)

    def reasons(self, members: Tensor) -> list[str]:
        """Why members stay: what has pinned them, or something that they go together with; each reason once."""
        roots = _roots(self._count, self._pairs)
        wanted = set(roots[members.reshape(-1)].tolist())
        return list(dict.fromkeys(why for pinned, why in self._pins if not wanted.isdisjoint(roots[pinned].tolist())))


def _roots(count: int, pairs: list[Tensor]) -> Tensor:
    """For every member the first one that it is joined with: int64 ``(count,)``."""
    edges = torch.cat([torch.zeros(2, 1, dtype=torch.int64), *pairs], 1).numpy()
    ones = np.ones(edges.shape[1], dtype=bool)
    _, component = connected_components(coo_array((ones, edges), shape=(count, count)), directed=False)
    _, first = np.unique(component, return_index=True)  # the class of PINNED begins with it, so it stays 0
    return torch.from_numpy(first[component].astype(np.int64))


@dataclass(frozen=True, eq=False)
class Solved:
    """``roots[member]``: the first member of its class; 0 stands for what must stay."""

    roots: Tensor
    classes: Classes
