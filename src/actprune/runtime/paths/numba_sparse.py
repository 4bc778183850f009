"""L4: the path that skips zeros, in weights and in activations, for chains of fully connected layers (extra: numba)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from actprune.errors import RuntimePathError
from actprune.program import Dense
from actprune.runtime.base import Array, Model, Run, features, layers, required
from actprune.runtime.paths.numba_kernels import Kernel, compiled
from actprune.runtime.paths.numba_plan import TILE, Plan


class NumbaSparse:
    """Runs ``flatten -> gather? -> linear -> relu -> ... -> linear`` of the compacted program, whatever its zeros.

    A single example goes column by column through the weights, and the columns of zero inputs (black pixels, ReLU
    zeros) are not read: the time follows the firing counts. More go in tiles of 16 or 32 examples, every weight read
    once a tile. The first build in a process compiles for about 3 s; later ones take milliseconds.

    The callable takes float32 C-contiguous ``(batch, *shape)`` with any batch size; other floats and strides are
    converted (slower), anything else raises RuntimePathError. It reuses its result while the batch size stays the
    same (copy what you keep) and its scratch memory always: give each thread a callable of its own. With
    ``threads`` > 1 batches of 64 and more are shared out; such a callable does not survive a fork.

    NaN and infinities spread as in a dense network, but only through weights and inputs that are not zero: dense
    kernels also make NaN of infinity times a pruned weight.
    """

    name = "numba sparse"
    extra: str | None = "numba"
    dense = False

    def build(self, model: Model) -> Run:
        """The callable. Raises RuntimePathError when the program is no such chain, or without numba."""
        required("numba", self)
        chain, width = layers(model), features(model)
        _check(self.name, chain, width)
        kernel, plan = compiled(model.example.ndim, model.threads > 1), Plan(chain, width)
        run = _callable(kernel, plan, model.example.shape[1:], max(model.threads, 1))
        run(model.example)
        return run


def _check(name: str, chain: Sequence[Dense], width: int) -> None:
    """Raises RuntimePathError unless the layers fit together: the kernels read memory without looking.

    width: numbers in one example.
    """
    tensors = [tensor for layer in chain for tensor in (layer.weight, layer.bias) if tensor is not None]
    if other := {str(tensor.dtype) for tensor in tensors if tensor.dtype != torch.float32}:
        found = ", ".join(sorted(other))
        raise RuntimePathError(f"{name} computes in float32, the model has {found}: use model.float()")
    columns, given = chain[0].columns, width
    if columns is not None:
        given = len(columns)
        if not ((columns >= 0) & (columns < width)).all():
            raise RuntimePathError(
                f"{name}: the model reads feature {int(columns.max())} of a flattened example, the example given has "
                f"{width}; give one of the shape that the model was made for"
            )
    for layer in chain:
        out, inputs = layer.weight.shape
        if inputs != given or (layer.bias is not None and layer.bias.shape != (out,)):
            raise RuntimePathError(
                f"{name}: {layer.name} has weights {tuple(layer.weight.shape)} for {given} inputs; give an example of "
                f"the shape that the model was made for"
            )
        given = out


def _callable(kernel: Kernel, plan: Plan, shape: tuple[int, ...], threads: int) -> Run:
    """The hot path is one call: the kernel itself notices a new batch size or a wrong array."""
    team = [plan, *(plan.for_another_thread() for _ in range(threads - 1))]
    run, address = (_shared_out(kernel, team) if threads > 1 else kernel), plan.address
    out = np.empty((0, plan.outputs), np.float32)

    def call(x: Array) -> Array:
        try:
            if run(x, address):
                return out
        except TypeError:
            pass  # not float32, not contiguous, not writable or no array: below
        return slow(x)

    def slow(x: Any) -> Array:
        nonlocal out
        ready = _converted(x, shape)
        out = np.empty((len(ready), plan.outputs), np.float32)
        for one, part in zip(team, _parts(len(out), threads), strict=False):
            one.write_to(out[part])
        if not run(ready, address):
            raise RuntimePathError("two threads called this path at once: build one for each thread")
        return out

    return call


def _parts(batch: int, threads: int) -> list[slice]:
    """What each thread takes: whole tiles, and nothing is shared out below two of them."""
    size = -(-batch // (threads * TILE)) * TILE if batch >= 2 * TILE else max(batch, 1)
    return [slice(at, at + size) for at in range(0, max(batch, 1), size)]


def _converted(x: Any, shape: tuple[int, ...]) -> Array:
    """A float32 C-contiguous writable array. Raises RuntimePathError when it is none of (batch, *shape) floats."""
    expected = f"a float32 array (batch, {', '.join(map(str, shape))})"
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        found = f"{x.dtype} values" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise RuntimePathError(f"expected {expected}, found {found}: convert it with numpy.asarray(x, numpy.float32)")
    if x.shape[1:] != shape or x.ndim == 0:
        raise RuntimePathError(f"expected {expected}, found shape {x.shape}: reshape it, the batch comes first")
    with np.errstate(over="ignore"):
        return np.require(x, np.float32, ["C", "W", "A", "E"])


def _shared_out(kernel: Kernel, team: Sequence[Plan]) -> Kernel:
    """The kernel over parts of the batch in a pool (the compiled code runs without the GIL).

    A pool of Python threads costs tens of microseconds a call but, unlike numba's own parallel loops, it cannot end the
    process when two threads of the user's call at once.
    """
    pool = ThreadPoolExecutor(len(team) - 1, "actprune-numba")
    helpers = [plan.address for plan in team[1:]]

    def run(x: Any, address: int) -> bool:
        own, *parts = _parts(len(x), len(team))
        others = [pool.submit(kernel, x[part], helper) for helper, part in zip(helpers, parts, strict=False)]
        try:
            fits = kernel(x[own], address)
        finally:
            wait(others)
        return fits and all(other.result() for other in others)

    return run
