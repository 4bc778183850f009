"""L4: classes of indices that can only be removed together."""

from __future__ import annotations

import torch
from torch import Tensor

PINNED = 0  # must stay: outputs, and whatever an operation mixes
EXTERNAL = 1  # belongs to the model's input: stays, but a reader may leave columns of it out


class Classes:
    """Union-find over integers: ``fresh`` makes members, ``join`` says that two must go together."""

    def __init__(self) -> None:
        self._parent = [PINNED, EXTERNAL]

    def fresh(self, count: int) -> Tensor:
        """``count`` new members, each a class of its own: int64 ``(count,)``."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def root(self, member: int) -> int:
        """The member that stands for a class. PINNED stands for its own."""
        path = []
        while self._parent[member] != member:
            path.append(member)
            member = self._parent[member]
        for passed in path:
            self._parent[passed] = member
        return member

    def roots(self, members: Tensor) -> Tensor:
        """``root`` of every element."""
        found, place = torch.unique(members, return_inverse=True)
        return torch.tensor([self.root(int(member)) for member in found], dtype=torch.int64)[place]

    def join(self, left: Tensor, right: Tensor) -> None:
        """Element by element, ``left`` and ``right`` (of equal shape) must go together."""
        for axis in range(left.dim()):
            if left.stride(axis) == 0 == right.stride(axis):  # both repeat themselves, as over a batch
                left, right = left.narrow(axis, 0, 1), right.narrow(axis, 0, 1)
        count = len(self._parent)
        for pair in torch.unique(left.reshape(-1) * count + right.reshape(-1)).tolist():
            self._join(*divmod(pair, count))

    def pin(self, members: Tensor) -> None:
        """None of them may go."""
        for member in torch.unique(members).tolist():
            self._join(PINNED, member)

    def _join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        if low == EXTERNAL or (low == PINNED and high == EXTERNAL):
            # The input stays whatever else happens, and stays recognisable; what is tied to it stays too.
            low, high = PINNED, high if high != EXTERNAL else PINNED
        self._parent[high] = low
