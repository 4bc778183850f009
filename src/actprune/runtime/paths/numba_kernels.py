"""L4: whole sparse networks in one compiled function: example by example skipping zeros, or many examples at once.

Compiled once a process for all models (about 3 s), since everything about a model is reached through its plan.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from actprune.runtime.paths import numba_plan as slot
from actprune.runtime.paths.numba_plan import TILE
from actprune.runtime.paths.numba_single import example
from actprune.runtime.paths.numba_tile import tile
from actprune.runtime.paths.numba_tools import jit, pointers

Kernel: TypeAlias = Callable[[Any, int], bool]

HALF = TILE // 2


@cache
def compiled(rank: int, release_gil: bool) -> Kernel:
    """The function (x, plan address) -> whether x has the batch and the features of the plan (if not, nothing is done).

    x: float32, ``rank`` axes, C-contiguous, writable; anything else raises TypeError before a byte is read.
    """
    from numba import types

    one, half, full = example(), tile(HALF), tile(TILE)
    int64 = pointers().int64

    def network(x: Any, plan: Any) -> Any:
        head = int64(plan)
        batch, features = head[slot.BATCH], head[slot.FEATURES]
        if len(x) != batch or x.size != batch * features:
            return False
        read, write, done = np.int64(x.ctypes.data), head[slot.OUT], 0
        while done < batch:
            left = batch - done
            if left == 1:
                taken = 1
                one(read, write, plan)
            elif left <= HALF:
                taken = left
                half(read, write, taken, plan)
            else:
                taken = min(left, TILE)
                full(read, write, taken, plan)
            done, read, write = done + taken, read + 4 * taken * features, write + 4 * taken * head[slot.OUTPUTS]
        return True

    images = types.Array(types.float32, rank, "C")
    kernel: Kernel = jit(network, types.boolean(images, types.int64), nogil=release_gil)
    return kernel
